"""The file of budgets and protocol, checked whole before anything is timed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from export.latency.backends import BACKENDS

PARTS = ("protocol", "yardstick", "ratios", "absolute", "scene", "ci")
PROTOCOL = ("rounds", "repeats", "batches", "sustained_s")
CI = (*PROTOCOL, "scene_s")


@dataclass(frozen=True)
class Protocol:
    """How long and how often.

    Attributes:
        rounds: Turns.
        repeats: Calls a backend and turn.
        batches: Batch sizes of the throughput table.
        sustained_s: Seconds of uninterrupted calls.
        frames_per_second: Rates of the live scans.
        scene_s: Seconds of each.
    """

    rounds: int
    repeats: int
    batches: list[int]
    sustained_s: float
    frames_per_second: list[float]
    scene_s: float


def settle_protocol(budgets: Mapping[str, Any], short: bool) -> Protocol:
    """Take the protocol from the budgets' file; `short` is the one for CI."""
    values = dict(budgets["ci" if short else "protocol"])
    rates = [float(rate) for rate in budgets["scene"]["frames_per_second"]]
    seconds = float(values.pop("scene_s", budgets["scene"]["seconds"]))
    return Protocol(**values, frames_per_second=rates, scene_s=seconds)


def read_budgets(path: str | Path) -> dict[str, Any]:
    """Read the budgets' file.

    Raises:
        FileNotFoundError: It is absent.
        ValueError: It is no YAML, lacks a key, has an unknown one, or one of the wrong kind; the message names it.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such latency budget file")
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: no YAML: {' '.join(str(error).split())}") from error
    try:
        _check(content)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return dict(content)


def _check(content: Any) -> None:
    _keys("a latency budget", content, PARTS)
    _protocol("protocol", content["protocol"], PROTOCOL, PROTOCOL)
    _protocol("ci", content["ci"], CI, PROTOCOL)
    _backend("yardstick", content["yardstick"])
    for name, limits in _mapping("ratios", content["ratios"]).items():
        _backend(f"ratios.{name}", name)
        _keys(f"ratios.{name}", limits, ("at_least", "reach"), ("at_least",))
        for key, value in limits.items():
            _positive(f"ratios.{name}.{key}", value)
    for number, entry in enumerate(_list("absolute", content["absolute"])):
        place = f"absolute[{number}]"
        _keys(place, entry, ("device", "backend", "p50_ms"))
        if not isinstance(entry["device"], str) or not entry["device"].strip():
            raise ValueError(f"{place}.device is the name of a device, not {entry['device']!r}")
        _backend(f"{place}.backend", entry["backend"])
        _positive(f"{place}.p50_ms", entry["p50_ms"])
    _scene(content["scene"])


def _protocol(place: str, values: Any, known: Collection[str], needed: Collection[str]) -> None:
    _keys(place, values, known, needed)
    for key in ("rounds", "repeats"):
        _count(f"{place}.{key}", values[key])
    for size in _list(f"{place}.batches", values["batches"], least=1):
        _count(f"{place}.batches", size)
    for key in {"sustained_s", "scene_s"} & set(values):
        _positive(f"{place}.{key}", values[key])


def _scene(scene: Any) -> None:
    needed = ("frames_per_second", "seconds")
    _keys("scene", scene, (*needed, "dropped_share_at_most"), needed)
    rates = _list("scene.frames_per_second", scene["frames_per_second"])
    for rate in rates:
        _positive("scene.frames_per_second", rate)
    _positive("scene.seconds", scene["seconds"])
    place = "scene.dropped_share_at_most"
    for rate, share in _mapping(place, scene.get("dropped_share_at_most", {})).items():
        if rate not in rates:
            raise ValueError(f"{place}: {rate!r} is none of the rates that are played, {rates}")
        if not _is_number(share) or not 0 <= share <= 1:
            raise ValueError(f"{place}.{rate} is a share from 0 to 1, not {share!r}")


def _mapping(place: str, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place} is a mapping, not {value!r}")
    return value


def _list(place: str, value: Any, least: int = 0) -> list[Any]:
    if not isinstance(value, list) or len(value) < least:
        raise ValueError(f"{place} is a list{' of at least one' if least else ''}, not {value!r}")
    return value


def _keys(place: str, value: Any, known: Collection[str], needed: Collection[str] | None = None) -> None:
    for key in _mapping(place, value):
        if key not in known:
            raise ValueError(f"{place} has no {key!r}; it takes {', '.join(known)}")
    missing = [key for key in (known if needed is None else needed) if key not in value]
    if missing:
        raise ValueError(f"{place} lacks {', '.join(missing)}; it takes {', '.join(known)}")


def _backend(place: str, name: Any) -> None:
    if name not in BACKENDS:
        raise ValueError(f"{place}: no backend {name!r}; there are {', '.join(BACKENDS)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive(place: str, value: Any) -> None:
    if not _is_number(value) or not 0 < value < float("inf"):
        raise ValueError(f"{place} is a number above 0, not {value!r}")


def _count(place: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{place}: {value!r} is no whole number of at least 1")
