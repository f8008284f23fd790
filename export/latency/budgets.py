"""Latency budgets: the YAML file of budgets and protocol, and verdicts on what was measured."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from export.latency.backends import BACKENDS

OK, OVER, NOT_APPLICABLE, FAILED = "ok", "OVER BUDGET", "not applicable", "FAILED"


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"no backend {name!r}; choose from {', '.join(BACKENDS)}")
    return name


Backend = Annotated[str, AfterValidator(_known)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Protocol(_Section):
    """How often and how long to time.

    Attributes:
        rounds: Turns.
        repeats: Calls a backend and turn.
        batches: Batch sizes of the throughput table.
        sustained_s: Seconds of uninterrupted calls.
        scene_s: Seconds of each live scan, in place of the scene's own.
    """

    rounds: Count
    repeats: Count
    batches: Annotated[list[Count], Field(min_length=1)]
    sustained_s: Positive
    scene_s: Positive | None = None


class RatioLimit(_Section):
    """How many times faster than the yardstick a backend must be, and the target that it is to reach."""

    at_least: Positive
    reach: Positive | None = None


class DeviceLimit(_Section):
    """Largest median time of a frame on the device of exactly this name."""

    device: Annotated[str, Field(pattern=r"\S")]
    backend: Backend
    p50_ms: Positive


class LiveScan(_Section):
    """Rates and seconds of the live scans, and the largest share of dropped frames by rate."""

    frames_per_second: list[Positive]
    seconds: Positive
    dropped_share_at_most: dict[float, Share] = {}

    @model_validator(mode="after")
    def _only_rates_that_are_played(self) -> Self:
        unknown = self.dropped_share_at_most.keys() - set(self.frames_per_second)
        if unknown:
            rates = self.frames_per_second
            raise ValueError(f"dropped_share_at_most: {min(unknown):g} is not in frames_per_second, {rates}")
        return self


class Budgets(_Section):
    """Content of a budget file; ``ci`` is the short protocol."""

    protocol: Protocol
    ci: Protocol
    yardstick: Backend
    ratios: dict[Backend, RatioLimit]
    absolute: list[DeviceLimit]
    scene: LiveScan


def read_budgets(path: str | Path) -> Budgets:
    """Read a budget file.

    Raises:
        FileNotFoundError: It is absent.
        ValueError: It is not YAML, or a key is missing, unknown or has a wrong value; the message is one line that
            names all of these keys.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such latency budget file")
    try:
        return Budgets.model_validate(yaml.safe_load(source.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = "; ".join(_fault(fault) for fault in error.errors())
        raise ValueError(f"{source}: {faults} (example: experiments/recipes/latency.yaml)") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: not YAML: {' '.join(str(error).split())}") from error


def _fault(fault: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "content"
    if fault["type"] == "missing":
        return f"{place} is missing"
    if fault["type"] == "extra_forbidden":
        return f"{place}: unknown key"
    message = str(fault["msg"]).removeprefix("Value error, ")
    given = "" if fault["type"] == "value_error" else f", not {reprlib.repr(fault['input'])}"
    return f"{place}: {message}{given}"


@dataclass(frozen=True)
class Verdict:
    """Result of comparing one figure with its budget.

    Attributes:
        budget: The budget in words.
        figure: The measured number, or None.
        status: ``ok``, ``OVER BUDGET``, ``FAILED`` (a backend that is installed here broke) or ``not applicable``.
        note: Why it does not apply, what broke, or how far the reach target is.
    """

    budget: str
    figure: float | None
    status: str
    note: str = ""


def _judge(
    budget: str,
    figure: float | None,
    broken: str | None,
    note: str = "",
    least: float = 0.0,
    most: float = math.inf,
) -> Verdict:
    if broken is not None:
        return Verdict(budget, None, FAILED, broken)
    if figure is None:
        return Verdict(budget, None, NOT_APPLICABLE, note or "did not run here")
    return Verdict(budget, figure, OK if least <= figure <= most else OVER, note)


def check_budgets(
    budgets: Budgets,
    ratios: Mapping[str, float],
    medians_ms: Mapping[str, Mapping[str, float]],
    scans: Sequence[Mapping[str, Any]] = (),
    reasons: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
) -> list[Verdict]:
    """Compare what was measured with every budget.

    Args:
        budgets: The budgets.
        ratios: Backend -> how many times faster than the yardstick.
        medians_ms: Name of the machine, and of a phone that was timed -> backend -> median milliseconds of a frame.
        scans: Results of the live scans with their ``encoder``, or the ``error`` in place of the counts.
        reasons: Backend -> why it did not run here, or what bounds its speed.
        errors: Backend -> its error, though it is installed here.

    Returns:
        A verdict a budget. The budget of an absent backend is not applicable, that of a broken one failed.
    """
    verdicts = []
    why, broken = reasons or {}, errors or {}
    for name, limit in budgets.ratios.items():
        ratio, note = ratios.get(name), why.get(name, "")
        if ratio is not None:
            missed = limit.reach is not None and ratio < limit.reach
            note = "; ".join(filter(None, ["missed", note])) if missed else "met"
            note = "" if limit.reach is None else f"reach target {limit.reach:g}: {note}"
        text = f"{name}: at least {limit.at_least:g} times {budgets.yardstick}"
        verdicts.append(_judge(text, ratio, broken.get(name), note, least=limit.at_least))
    devices = {device.strip().lower(): medians for device, medians in medians_ms.items()}
    for entry in budgets.absolute:
        text = f"{entry.backend} on {entry.device}: at most {entry.p50_ms:g} ms"
        medians = devices.get(entry.device.strip().lower())
        if medians is None:
            verdicts.append(_judge(text, None, None, f"this is {' with '.join(medians_ms)}"))
        else:
            figure, error = medians.get(entry.backend), broken.get(entry.backend)
            verdicts.append(_judge(text, figure, error if figure is None else None, most=entry.p50_ms))
    for scan in scans:
        most = budgets.scene.dropped_share_at_most.get(scan["frames_per_second"])
        if most is not None:
            where = f"live scan at {scan['frames_per_second']:g} frames/s with {scan['encoder']}"
            share = None if "error" in scan else scan["dropped"] / scan["frames"]
            verdicts.append(
                _judge(f"{where}: at most {most:.0%} dropped", share, scan.get("error"), most=most)
            )
    return verdicts


def over_budget(verdicts: Sequence[Verdict]) -> str:
    """Return one line that names every number over its budget and what broke; empty when there is none."""
    lines = [f"{v.budget}, measured {v.figure:.3g}" for v in verdicts if v.status == OVER]
    return "; ".join(lines + [f"{v.budget}: {v.note}" for v in verdicts if v.status == FAILED])
