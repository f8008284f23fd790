"""Latency budgets: the YAML file of budgets and timing, and verdicts on what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from export.latency.backends import COREML_UNITS, INT8, LITERT, OPENVINO_PRECISIONS, PROVIDERS, TORCH, smaller
from export.latency.coreml_tools import FAILED, MAC
from export.latency.machine import ARITHMETIC, bottlenecks
from models.files import read_settings

OK, OVER, NOT_APPLICABLE = "ok", "OVER BUDGET", "not applicable"
NOT_DECIDABLE = "NOT DECIDABLE"
SMALL_GMACS = 0.1
WIDE = 0.5  # distance of the quartiles, as a share of the median, from which a ratio says nothing


def _known(name: str) -> str:
    backends = (*TORCH, *PROVIDERS, *OPENVINO_PRECISIONS, LITERT, *COREML_UNITS, *smaller())
    if name not in backends:
        raise ValueError(f"no backend {name!r}; choose from {', '.join(backends)}")
    return name


Backend = Annotated[str, AfterValidator(_known)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TimingSettings(_Section):
    """How often and how long to time; ``live_scan_s`` replaces the scan's own seconds."""

    rounds: Count
    repeats: Count
    batches: Annotated[list[Count], Field(min_length=1)]
    sustained_s: Positive
    live_scan_s: Positive | None = None


class RatioLimit(_Section):
    """How many times faster than the reference a backend must be, and the target that it is to reach.

    `small` replaces `at_least` for students below `SMALL_GMACS`, where PyTorch spends most of its time between layers;
    `of_float32` is how many times faster than float32 in the same runtime an int8 file must be.
    """

    at_least: Positive
    reach: Positive | None = None
    small: Positive | None = None
    of_float32: Positive | None = None


class DeviceLimit(_Section):
    """Largest median time of a frame on the device of exactly this name."""

    device: Annotated[str, Field(pattern=r"\S")]
    backend: Backend
    p50_ms: Positive


class LiveScan(_Section):
    """Seconds of the live scans, and frames a second -> largest share of dropped frames (null: only reported)."""

    seconds: Positive
    rates: dict[Positive, Share | None]


class Budgets(_Section):
    """Content of a budget file; ``ci`` is the short timing of CI."""

    timing: TimingSettings
    ci: TimingSettings
    reference: Backend
    ratios: dict[Backend, RatioLimit]
    absolute: list[DeviceLimit]
    live_scan: LiveScan


def read_budgets(path: str | Path) -> Budgets:
    """Read a budget file; see `models.files.read_settings` for what is raised."""
    return read_settings(Path(path), Budgets, "experiments/recipes/latency.yaml")


@dataclass(frozen=True)
class Verdict:
    """One figure compared with its budget; `FAILED` where a backend that is installed here broke."""

    budget: str
    figure: float | None
    status: str
    note: str = ""


def check_budgets(budgets: Budgets, record: Mapping[str, Any]) -> list[Verdict]:
    """Compare the record of `export.latency.session.run_session` with every budget.

    The budget of an absent backend is not applicable, that of a broken one failed.
    """
    rows, gmacs = record["backends"], record["model"].get("gmacs", math.inf)
    reasons = {**record["absent"], **bottlenecks(rows)}
    verdicts = []
    for name, limit in budgets.ratios.items():
        least = limit.small if limit.small is not None and gmacs < SMALL_GMACS else limit.at_least
        text = f"{name}: at least {least:g} times {budgets.reference}"
        row, note = rows.get(name, {}), reasons.get(name, "")
        ratio = row["ratio"]["median"] if "ratio" in row else None
        # Arithmetic other than float32 may be faster than the product that it is compared with.
        peak = 0.0 if name in ARITHMETIC else row.get("share_of_matmul_peak", 0.0)
        if limit.of_float32 is not None and "of_float32" in row:
            own = f"{name}: at least {limit.of_float32:g} times float32 in {INT8[name]}"
            verdicts.append(_of_ratio(own, row["of_float32"], peak, limit.of_float32, ""))
        if row and ratio is None:
            note = f"no {budgets.reference} to compare with"
        elif ratio is not None:
            missed = limit.reach is not None and ratio < limit.reach
            note = "; ".join(filter(None, ["missed", note])) if missed else "met"
            note = "" if limit.reach is None else f"reach target {limit.reach:g}: {note}"
        if ratio is None or "error" in row:
            verdicts.append(_judge(text, None, row.get("error"), note))
        else:
            verdicts.append(_of_ratio(text, row["ratio"], peak, least, note))
    verdicts += [_on_device(limit, record) for limit in budgets.absolute]
    for scan in record["live_scans"]:
        most = budgets.live_scan.rates.get(scan["frames_per_second"])
        if most is not None:
            where = f"live scan at {scan['frames_per_second']:g} frames/s with {scan['encoder']}"
            share = None if "error" in scan else scan["dropped"] / scan["frames"]
            verdicts.append(
                _judge(f"{where}: at most {most:.0%} dropped", share, scan.get("error"), most=most)
            )
    coreml = record["coreml_stopwatch"]
    if coreml["status"] == FAILED:
        verdicts.append(Verdict("the attached phone is timed", None, FAILED, coreml["reason"]))
    return verdicts


def _of_ratio(budget: str, ratio: Mapping[str, float], peak: float, least: float, note: str) -> Verdict:
    """Judge a ratio, unless its quartiles or an impossible speed show that the machine was too busy to measure it."""
    low, high, median = ratio["low"], ratio["high"], ratio["median"]
    doubts = []
    if peak > 1:
        doubts.append(f"{peak:.0%} of the matmul peak is impossible")
    if high - low > WIDE * median:
        doubts.append(f"the quartiles {low:.3g} and {high:.3g} are too far apart")
    elif low < least <= high:
        doubts.append(f"the quartiles {low:.3g} and {high:.3g} lie on both sides")
    if doubts:
        return Verdict(budget, median, NOT_DECIDABLE, "; ".join([*doubts, "repeat it on an idle machine"]))
    return _judge(budget, median, None, note, least=least)


def _on_device(limit: DeviceLimit, record: Mapping[str, Any]) -> Verdict:
    """Judge an absolute budget, on this machine and on an attached phone."""
    rows = {record["machine"]["device"]: dict(record["backends"])}
    for row in record["coreml_stopwatch"]["rows"]:
        if row["device"] != MAC:
            rows.setdefault(row["device"], {})[row["backend"]] = row
    text = f"{limit.backend} on {limit.device}: at most {limit.p50_ms:g} ms"
    for device, found in rows.items():
        if device.strip().lower() == limit.device.strip().lower():
            row = found.get(limit.backend, {})
            return _judge(text, row.get("p50_ms"), row.get("error"), most=limit.p50_ms)
    return Verdict(text, None, NOT_APPLICABLE, f"this is {' with '.join(rows)}")


def _judge(
    budget: str,
    figure: float | None,
    error: str | None,
    note: str = "",
    *,
    least: float = 0.0,
    most: float = math.inf,
) -> Verdict:
    if error is not None:
        return Verdict(budget, None, FAILED, error)
    if figure is None:
        return Verdict(budget, None, NOT_APPLICABLE, note or "did not run here")
    return Verdict(budget, figure, OK if least <= figure <= most else OVER, note)


def over_budget(verdicts: Sequence[Verdict]) -> str:
    """Return one line that names every number over its budget and what broke; empty when there is none."""
    lines = [f"{v.budget}, measured {v.figure:.3g}" for v in verdicts if v.status == OVER]
    return "; ".join(lines + [f"{v.budget}: {v.note}" for v in verdicts if v.status == FAILED])


def undecided(verdicts: Sequence[Verdict]) -> str:
    """Return one line that names every budget that could not be decided; empty when there is none."""
    return "; ".join(f"{v.budget}: {v.note}" for v in verdicts if v.status == NOT_DECIDABLE)
