"""How runs were set up, where they differ, and how to repeat them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pandas as pd

from experiments.process import python_here, relative
from experiments.report.read_run import FinishedRun
from experiments.report.reference import flatten, shown
from experiments.report.tables import NOTHING, Table

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


def settings(runs: Sequence[FinishedRun], titles: Sequence[str]) -> tuple[Table, Table | None]:
    """Return the main settings, a column a run, and every setting in which runs differ, None for a single run."""
    flat = [
        {name: shown(value) for name, value in flatten(run.config).items() if value is not None}
        for run in runs
    ]
    frame = pd.DataFrame(dict(zip(titles, map(pd.Series, flat), strict=True)), dtype=object).fillna(NOTHING)
    frame = frame.sort_index().rename_axis("setting")
    own = [name.startswith(tuple(f"{key}." for key in OWN)) or name in OWN for name in frame.index]
    main = frame.reindex(KEYS).dropna().rename(index=KEYS)
    differing = frame[(frame.nunique(axis=1) > 1) & ~pd.Series(own, index=frame.index, dtype=bool)]
    tables = [part.reset_index(names="setting").to_dict("records") for part in (main, differing)]
    others = Table("Settings that differ", tables[1]) if len(runs) > 1 else None
    return Table("Main settings", tables[0]), others


def commands(run: FinishedRun) -> dict[str, str]:
    """Return what was run, how to repeat it, and how to write the report again: purpose -> command."""
    folder, python = shlex.quote(relative(run.folder)), python_here()
    found = {}
    if run.record.get("command"):
        words = map(str, run.record["command"])
        found["as it was started"] = shlex.join([python, "-m", "experiments", *words])
    commit = str(run.record.get("git_commit") or "").removesuffix("-dirty")
    if commit:
        found["the same code"] = f"git checkout {shlex.quote(commit)}"
    if run.config and not run.history.empty:
        again = f"--config {folder}/config.yaml --run {shlex.quote(f'{run.folder.name}-again')}"
        found["the same settings"] = f"{shlex.quote(python)} -m experiments fit {again}"
    return {**found, "this report": f"make report RUN={folder}"}
