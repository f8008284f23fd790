"""How runs were set up, where they differ, and how to repeat them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml

from experiments.process import python_here
from experiments.report.read_run import Run
from experiments.report.reference import flatten, shown
from experiments.report.tables import NOTHING, Table
from metrics.names import STUDENT

# Names of the run's own folder: they always differ.
OWN = ("run", "config", "ckpt_path", "trainer.default_root_dir", "trainer.logger", "checkpoint.dirpath")
KEYS = {
    "model.loss.class_path": "loss",
    "model.loss.init_args.temperature": "temperature",
    "schedule.init_args.start": "weight at the start",
    "schedule.init_args.end_ratio": "end over start",
    "schedule.init_args.end": "weight at the end",
    "schedule.init_args.shape": "shape of the schedule",
    "trainer.max_epochs": "epochs",
    "data.init_args.batch_size": "batch size",
    "model.learning_rate": "learning rate",
    "trainer.precision": "precision",
    "seed_everything": "seed",
    "paper_selection": "selected on the reported images",
}


def settings(runs: Sequence[Run], titles: Sequence[str]) -> tuple[Table, Table | None]:
    """Return the main settings, a column a run, and every setting in which runs differ, None for a single run."""
    flat = [
        {name: shown(value) for name, value in flatten(run.config).items() if value is not None}
        for run in runs
    ]
    frame = pd.DataFrame(dict(zip(titles, map(pd.Series, flat), strict=True)), dtype=object).fillna(NOTHING)
    frame = frame.sort_index()
    main = frame.reindex(KEYS).dropna().rename(index=KEYS)
    own = frame.index.map(lambda name: any(name == key or name.startswith(f"{key}.") for key in OWN))
    differing = frame[(frame.nunique(axis=1) > 1) & ~own.astype(bool)]
    head = ["setting", *titles]
    rows, others = ([list(row) for row in part.itertuples()] for part in (main, differing))
    table = Table.of("Settings that differ", head, others) if len(runs) > 1 else None
    return Table.of("Main settings", head, rows), table


def relative(path: Path) -> str:
    """Write a path relative to the working directory where it is below it, else in full."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def commands(run: Run) -> list[tuple[str, str]]:
    """Return what was run, how to repeat it, and how to write the report again: (purpose, command) pairs."""
    folder, python = shlex.quote(relative(run.folder)), shlex.quote(python_here())
    found = []
    if run.record.get("command"):
        words = map(str, run.record["command"])
        found.append(("as it was started", shlex.join([python_here(), "-m", "experiments", *words])))
    commit = str(run.record.get("git_commit") or "").removesuffix("-dirty")
    if commit:
        found.append(("the same code", f"git checkout {shlex.quote(commit)}"))
    if run.config and not run.history.empty:
        again = shlex.quote(f"{run.folder.name}-again")
        repeat = f"{python} -m experiments fit --config {folder}/config.yaml --run {again}"
        found.append(("the same settings", repeat))
    return [*found, ("this report", f"make report RUN={folder}")]


def provenance(run: Run) -> list[tuple[str, str]]:
    """Return where a run's numbers come from, as (what, value) pairs."""
    record = run.record
    commit = str(record.get("git_commit") or "unknown")
    if commit.endswith("-dirty"):
        commit = (
            f"{commit.removesuffix('-dirty')}, with uncommitted changes, without which it cannot be repeated"
        )
    selection = record.get("selection", {})
    split = next(((run.details(STUDENT, name) or {}).get("split") for name in run.benchmarks()), None)
    listed = {
        name: ", ".join(f"{key} {value}" for key, value in record.get(name, {}).items())
        for name in ("machine", "versions")
    }
    pairs = {
        "folder": relative(run.folder),
        "commit": commit,
        "data": f"{record['data']}, {split or 'unknown'} split",
        "seed": record.get("seed"),
        "selected by": selection.get("score") and f"{selection.get('monitor')} = {selection['score']}",
        "finished": record.get("finished"),
        "took": record.get("seconds") and f"{record['seconds'] / 60:.1f} min, {record.get('steps')} steps",
        "machine": listed["machine"],
        "packages": listed["versions"],
    }
    return [(key, str(value)) for key, value in pairs.items() if value not in (None, "")]


def raw_config(run: Run) -> str:
    """Return the resolved configuration as YAML; empty where there is none."""
    return yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else ""
