"""Where a run writes: ``outputs/<experiment>/<run>/``."""

from __future__ import annotations

import glob
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:  # commands that train nothing start without it
    from lightning import Trainer

OUTPUTS = Path("outputs")
RUN_VARIABLE = "SONODISTILL_RUN"  # processes of one run are started from one command line and share it


def run_folder(experiment: str, preset: str, seed: int, run: str | None, checkpoint: str | None) -> Path:
    """Choose the folder of a run.

    Args:
        experiment: Name of the experiment.
        preset: Name of the data preset.
        seed: Seed of the run.
        run: The user's own name for the run; None makes one from preset, seed and time.
        checkpoint: Checkpoint that the run resumes from; one that lies in a run folder continues there.

    Returns:
        The folder, not yet created. The same in every process of a run.
    """
    if checkpoint is not None and run is None:
        folder = Path(checkpoint).resolve().parent
        if folder.name == "checkpoints":
            return folder.parent
    if run is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        # W&B's agents on several GPUs or machines start runs in the same second; this tells them apart.
        agent = os.environ.get("WANDB_RUN_ID", "")
        name = "-".join(filter(None, (preset, f"s{seed}", stamp, agent)))
        run = os.environ.setdefault(RUN_VARIABLE, name)
    return OUTPUTS / experiment / run


def refuse_used(folder: Path) -> None:
    """Refuse to begin a run in the folder of another one, whose checkpoints and results it would overwrite.

    A folder without checkpoint and results is that of a run that failed at its start, and can be used.

    Args:
        folder: Folder of the run that is to begin.

    Raises:
        ValueError: There is a run.
    """
    if (folder / "results.json").exists() or (folder / "checkpoints" / "last.ckpt").exists():
        raise ValueError(
            f"--run={folder.name}: {folder} holds a run already; begin a new one with another --run=NAME, or "
            f"go on with this one: --run={folder.name} --ckpt_path=last"
        )


def requeued_checkpoint(experiment: str) -> Path | None:
    """Return the checkpoint from which a run of a W&B sweep goes on when its agent starts it again.

    The agent repeats the very same command, under the same ``WANDB_RUN_ID``; `run_folder` has put that into the
    name of the folder.

    Args:
        experiment: Name of the experiment.

    Returns:
        ``checkpoints/last.ckpt`` of the unfinished run; None outside a sweep, for a new run, and for a finished one.
    """
    agent = os.environ.get("WANDB_RUN_ID")
    if not agent or not os.environ.get("WANDB_SWEEP_ID"):
        return None
    found = (OUTPUTS / experiment).glob(f"*-{glob.escape(agent)}/checkpoints/last.ckpt")
    unfinished = (path for path in found if not (path.parent.parent / "results.json").is_file())
    return max(unfinished, key=lambda path: path.stat().st_mtime, default=None)


def last_as_best(trainer: Trainer, folder: Path) -> str:
    """Copy ``last.ckpt`` to ``best.ckpt`` where nothing was selected, whole or not at all, and return its path.

    Every process of the run has to call it.
    """
    best = folder / "checkpoints" / "best.ckpt"
    if trainer.is_global_zero:
        partial = best.with_suffix(".partial")
        shutil.copyfile(best.with_name("last.ckpt"), partial)
        partial.replace(best)
        print(f"nothing was selected, for no score was logged: {best} holds the last weights")
    trainer.strategy.barrier()
    return str(best)


def read_metrics(folder: Path) -> pd.DataFrame:
    """Read what a run logged, every resumption included, in order; empty when nothing was.

    What a killed run logged after the checkpoint that it resumed from is left out: the resumed part logged those
    steps again.

    Lightning's CSV logger starts ``metrics.csv`` anew when a run resumes, so `keep_metrics` puts the older
    part aside first.
    """
    parts = [*sorted(folder.glob("metrics-*.csv")), folder / "metrics.csv"]
    frames = [pd.read_csv(path) for path in parts if path.is_file() and path.stat().st_size]
    kept: list[pd.DataFrame] = []
    resumed = float("inf")  # first step of the parts that follow
    for frame in reversed(frames):
        if "step" in frame:
            frame = frame[~(frame["step"] >= resumed)]
            resumed = min(resumed, float(frame["step"].min()))
        kept.insert(0, frame)
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()


def keep_metrics(folder: Path) -> None:
    """Put the metrics of an interrupted run aside before it resumes."""
    path = folder / "metrics.csv"
    if path.is_file():
        path.rename(folder / f"metrics-{len(list(folder.glob('metrics-*.csv'))):03d}.csv")


def join_metrics(folder: Path) -> None:
    """Make one ``metrics.csv`` of all parts of a resumed run, whole or not at all."""
    parts = sorted(folder.glob("metrics-*.csv"))
    if parts:
        partial = folder / "metrics.partial"
        read_metrics(folder).to_csv(partial, index=False)
        partial.replace(folder / "metrics.csv")
        for part in parts:
            part.unlink()
