"""Latency budgets: ratios to a yardstick of the same run, and absolute times on named devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OK, OVER, NOT_APPLICABLE, FAILED = "ok", "OVER BUDGET", "not applicable", "FAILED"


@dataclass(frozen=True)
class Verdict:
    """One budget held against one figure.

    Attributes:
        budget: What was asked, in words.
        figure: The measured number, or None.
        status: ``ok``, ``OVER BUDGET``, ``FAILED`` (a backend that is installed here broke) or ``not applicable``.
        note: Why it does not apply, what broke, or how far the reach target is.
    """

    budget: str
    figure: float | None
    status: str
    note: str = ""


def check_budgets(
    budgets: Mapping[str, Any],
    ratios: Mapping[str, float],
    medians_ms: Mapping[str, float],
    device: str,
    scenes: list[dict[str, Any]],
    reasons: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
) -> list[Verdict]:
    """Hold every budget against what was measured.

    Args:
        budgets: Content of the budgets' file.
        ratios: Backend -> how many times faster than the yardstick.
        medians_ms: Backend -> median time of one frame, in milliseconds.
        device: Name of the machine.
        scenes: Results of `run_scene` with their ``encoder``, or the ``error`` in place of the counts.
        reasons: Backend -> why it did not run here, or what holds it back where it misses its reach.
        errors: Backend -> what it died of, though it is installed here.

    Returns:
        A verdict a budget. A backend that is absent here makes its budget not applicable, one that
        broke makes it failed.

    """
    verdicts = []
    why, broken = reasons or {}, errors or {}
    for name, limits in budgets["ratios"].items():
        least, reach = float(limits["at_least"]), limits.get("reach")
        text = f"{name}: at least {least:g} times {budgets['yardstick']}"
        if name in broken:
            verdicts.append(Verdict(text, None, FAILED, broken[name]))
            continue
        if name not in ratios:
            verdicts.append(Verdict(text, None, NOT_APPLICABLE, why.get(name, "did not run here")))
            continue
        note = "" if reach is None else f"reach target {reach:g}: met"
        if reach is not None and ratios[name] < reach:
            note = "; ".join(filter(None, [f"reach target {reach:g}: missed", why.get(name)]))
        verdicts.append(Verdict(text, ratios[name], OK if ratios[name] >= least else OVER, note))
    verdicts += check_absolute(budgets, medians_ms, device, broken)
    for scene in scenes:
        rate = scene["frames_per_second"]
        limit = budgets["scene"].get("dropped_share_at_most", {}).get(rate)
        if limit is None:
            continue
        text = f"live scan at {rate:g} frames/s with {scene['encoder']}: at most {limit:.0%} dropped"
        if "error" in scene:
            verdicts.append(Verdict(text, None, FAILED, scene["error"]))
            continue
        share = scene["dropped"] / scene["frames"]
        verdicts.append(Verdict(text, share, OK if share <= limit else OVER))
    return verdicts


def check_absolute(
    budgets: Mapping[str, Any],
    medians_ms: Mapping[str, float],
    device: str,
    errors: Mapping[str, str] | None = None,
) -> list[Verdict]:
    """Hold the budgets of named devices against what was measured on `device`, which must have the very name."""
    verdicts = []
    for entry in budgets["absolute"]:
        text = f"{entry['backend']} on {entry['device']}: at most {entry['p50_ms']:g} ms"
        figure = medians_ms.get(entry["backend"])
        if entry["device"].lower() != device.strip().lower():
            verdicts.append(Verdict(text, None, NOT_APPLICABLE, f"this is {device}"))
        elif entry["backend"] in (errors or {}):
            verdicts.append(Verdict(text, None, FAILED, (errors or {})[entry["backend"]]))
        elif figure is None:
            verdicts.append(Verdict(text, None, NOT_APPLICABLE, "did not run here"))
        else:
            verdicts.append(Verdict(text, figure, OK if figure <= entry["p50_ms"] else OVER))
    return verdicts


def over_budget(verdicts: list[Verdict]) -> str:
    """Return one line that names every number over its budget and what broke, empty when there is none."""
    lines = [f"{v.budget}, measured {v.figure:.3g}" for v in verdicts if v.status == OVER]
    return "; ".join(lines + [f"{v.budget}: {v.note}" for v in verdicts if v.status == FAILED])
