"""How runs were set up: what they share, where they differ, and how to repeat them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.interpreter import python_here
from experiments.report.evidence import Evidence
from experiments.report.read_run import Run
from experiments.report.tables import NOTHING, Cell, Table

# Names of the run's own folder: they always differ and say nothing.
OWN = (
    "run", "config", "ckpt_path", "trainer.default_root_dir", "trainer.logger", "checkpoint.dirpath",
)  # fmt: skip
KEYS = {
    "model.loss.class_path": "loss",
    "model.loss.init_args.temperature": "temperature",
    "schedule.init_args.start": "weight at the start",
    "schedule.init_args.end_ratio": "end over start",
    "schedule.init_args.shape": "shape of the schedule",
    "trainer.max_epochs": "epochs",
    "data.init_args.batch_size": "batch size",
    "model.learning_rate": "learning rate",
    "trainer.precision": "precision",
    "seed_everything": "seed",
    "paper_selection": "selected on the reported images",
}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration by dotted names, as the command line has them; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _settings(run: Run) -> dict[str, Any]:
    return {
        name: value
        for name, value in flatten(run.config).items()
        if not any(name == own or name.startswith(f"{own}.") for own in OWN)
    }


def shown(value: Any) -> str:
    """Write a setting as YAML would, on one line."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def key_settings(runs: Sequence[Run], titles: Sequence[str]) -> Table:
    """Return the settings that matter most, a column a run."""
    flat = [flatten(run.config) for run in runs]
    rows = [
        [Cell(title), *(Cell(shown(values[name]) if name in values else NOTHING) for values in flat)]
        for name, title in KEYS.items()
        if any(values.get(name) is not None for values in flat)
    ]
    return Table("Main settings", ["setting", *titles], rows, {})


def config_difference(runs: Sequence[Run], titles: Sequence[str]) -> Table | None:
    """Return every setting in which the runs differ, None for a single run."""
    if len(runs) < 2:
        return None
    flat = [_settings(run) for run in runs]
    rows = []
    for name in sorted({name for values in flat for name in values}):
        texts = [shown(values[name]) if name in values else NOTHING for values in flat]
        if len(set(texts)) > 1:
            rows.append([Cell(name), *map(Cell, texts)])
    return Table("Settings that differ", ["setting", *titles], rows, {})


def relative(path: Path) -> str:
    """Write a path from the working directory where it lies below, else in full."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def commands(run: Run, evidence: Evidence | None) -> list[tuple[str, str]]:
    """Return what was run, how to repeat it, and how to go on: (purpose, command) pairs."""
    folder = shlex.quote(relative(run.folder))
    found = []
    started = run.record.get("command")
    if started:
        words = map(str, started if isinstance(started, list) else [started])
        found.append(("as it was started", shlex.join([python_here(), "-m", "experiments", *words])))
    elif evidence is not None and evidence.command:
        found.append(("as it was started", evidence.command))
    commit = str(run.record.get("git_commit") or "").removesuffix("-dirty")
    if commit:
        found.append(("the same code", f"git checkout {shlex.quote(commit)}"))
    if run.config and not run.history.empty:
        again = shlex.quote(f"{run.folder.name}-again")
        repeat = f"-m experiments fit --config {folder}/config.yaml --run {again}"
        found.append(("the same settings", f"{shlex.quote(python_here())} {repeat}"))
    found.append(("this report", f"make report RUN={folder}"))
    return found


def provenance(run: Run) -> list[tuple[str, str]]:
    """Return where a run's numbers come from, as (what, value) pairs."""
    record = run.record
    commit = str(record.get("git_commit") or "unknown")
    if commit.endswith("-dirty"):
        commit = (
            f"{commit.removesuffix('-dirty')}, with uncommitted changes: alone it does not repeat this run"
        )
    selection, machine = record.get("selection", {}), record.get("machine", {})
    versions = record.get("versions", {})
    split = next((run.details("student", name).get("split") for name in run.benchmarks()), None)  # type: ignore[union-attr]
    pairs = [
        ("folder", relative(run.folder)),
        ("commit", commit),
        ("data", f"{record['data']}, {split or 'unknown'} split"),
        ("seed", record.get("seed")),
        (
            "selected by",
            f"{selection.get('monitor')} = {selection.get('score')}" if selection.get("score") else None,
        ),
        ("finished", record.get("finished")),
        (
            "took",
            f"{record['seconds'] / 60:.1f} min, {record.get('steps')} steps"
            if record.get("seconds")
            else None,
        ),
        ("machine", ", ".join(f"{key} {value}" for key, value in machine.items()) or None),
        ("packages", ", ".join(f"{key} {value}" for key, value in versions.items()) or None),
    ]
    return [(key, str(value)) for key, value in pairs if value is not None]


def raw_config(run: Run) -> str:
    """Return the resolved configuration as YAML; empty where there is none."""
    return yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else ""
