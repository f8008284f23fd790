"""A run's folder ``outputs/<experiment>/<run>/`` and the parts of its metrics."""

from __future__ import annotations

import glob
import os
import re
import shutil
from datetime import datetime
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch.distributed.rendezvous import rendezvous

from experiments.process import relative
from models.files import atomic

OUTPUTS = Path("outputs")
RUN_VARIABLE = "SONODISTILL_RUN"  # shared by the processes of one run
NO_ID = "none"  # torchrun's rendezvous id where none is given


def run_folder(experiment: str, preset: str, seed: int, run: str | None, checkpoint: str | None) -> Path:
    """Return the folder of a run, the same in all its processes; it is not created.

    A run that resumes from a checkpoint continues in the run folder that holds it. Without a name (`run`) one is made
    from preset, seed and time.
    """
    for option, name in (("--run", run), ("--experiment", experiment)):
        if name is not None and (name == ".." or Path(name).name != name):
            raise ValueError(f"{option}={name}: a folder's name below {OUTPUTS}/, not a path")
    if checkpoint is not None and run is None:
        folder = Path(checkpoint).resolve().parent
        if folder.name == "checkpoints":
            return Path(relative(folder.parent))
    if run is None:
        run = os.environ.get(RUN_VARIABLE) or _run_name(preset, seed)
        os.environ[RUN_VARIABLE] = run
    return OUTPUTS / experiment / run


def _run_name(preset: str, seed: int) -> str:
    """Return a new run's name: equal in every process of a job and, if the job has an id, after a restart."""
    job = job_id()
    stamp = job or datetime.now().strftime("%Y%m%d-%H%M%S")
    # Distinguishes runs that several W&B agents start in the same second.
    agent = os.environ.get("WANDB_RUN_ID", "")
    name = "-".join(filter(None, (preset, f"s{seed}", stamp, agent)))
    if job or "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return name
    store, rank, _ = next(rendezvous("env://"))
    if rank == 0 and not store.check([RUN_VARIABLE]):  # torchrun keeps the store over restarts
        store.set(RUN_VARIABLE, name)
    return str(store.get(RUN_VARIABLE).decode())


def job_id() -> str | None:
    """Return torchrun's rendezvous id or SLURM's number of the job and step; None outside both, or without an id."""
    job, step = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_ID", "0")
    rendezvous = os.environ.get("TORCHELASTIC_RUN_ID", NO_ID)
    if rendezvous != NO_ID:
        return re.sub(r"[^\w.-]", "-", rendezvous)
    if job is None or not SLURMEnvironment.detect():  # an interactive job may hold any number of runs
        return None
    return f"slurm{job}" + (f".{step}" if step != "0" else "")


def lock_folder(folder: Path) -> FileLock:
    """Hold a run's folder until the lock is released or this process ends.

    Raises:
        ValueError: Another process trains in it.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{folder}: another process is training this run; wait, or choose another --run=NAME"
        ) from None
    return lock


def continues(folder: Path, checkpoint: str | None) -> bool:
    """Return whether a checkpoint to resume from is one of the run in `folder`."""
    return checkpoint is not None and Path(checkpoint).resolve().parent == (folder / "checkpoints").resolve()


def refuse_used(folder: Path) -> None:
    """Refuse to start a run in a folder with checkpoints or results of another run."""
    if (folder / "results.json").exists() or (folder / "checkpoints" / "last.ckpt").exists():
        raise ValueError(
            f"--run={folder.name}: {folder} already holds a run; choose another --run=NAME, or "
            f"resume this one: --run={folder.name} --ckpt_path=last"
        )


def requeued_checkpoint(experiment: str, preset: str, seed: int) -> Path | None:
    """Return the checkpoint from which a run resumes when SLURM, torchrun or the agent of a W&B sweep starts it again.

    They repeat the same command; the job's id or ``WANDB_RUN_ID`` is part of the folder's name. None outside a job or
    sweep, for a new run, and for a finished one.
    """
    agent = os.environ.get("WANDB_RUN_ID")
    if agent and os.environ.get("WANDB_SWEEP_ID"):
        name = f"*-{glob.escape(agent)}"
    elif {"SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID"} & set(os.environ) and RUN_VARIABLE not in os.environ:
        name = glob.escape(run_folder(experiment, preset, seed, None, None).name)
    else:
        return None
    found = (OUTPUTS / experiment).glob(f"{name}/checkpoints/last.ckpt")
    unfinished = (path for path in found if not (path.parent.parent / "results.json").is_file())
    return max(unfinished, key=lambda path: path.stat().st_mtime, default=None)


def last_as_best(trainer: Trainer, folder: Path) -> str:
    """Copy ``last.ckpt`` to ``best.ckpt`` when no checkpoint was selected; return its path.

    Every process of the run must call it.
    """
    best = folder / "checkpoints" / "best.ckpt"
    if trainer.is_global_zero:
        with atomic(best) as partial:
            shutil.copyfile(best.with_name("last.ckpt"), partial)
        print(f"no score was logged to select by: {best} holds the last weights")
    trainer.strategy.barrier()
    return str(best)


def read_metrics(folder: Path) -> pd.DataFrame:
    """Read the logged metrics of a run and of its resumptions, in order; empty when nothing was logged.

    Rows that a killed run logged after the checkpoint it resumed from are dropped: the resumed part logged those steps
    again, of its first step maybe the evaluation alone. Lightning's CSV logger restarts ``metrics.csv`` when a run
    resumes, so `keep_metrics` renames the older part.
    """
    parts = [*sorted(folder.glob("metrics-*.csv")), folder / "metrics.csv"]
    frames = [pd.read_csv(path) for path in parts if path.is_file() and path.stat().st_size]
    whole = frames.pop() if frames else pd.DataFrame()
    for frame in reversed(frames):
        if "step" in frame and "step" in whole:
            resumed = whole["step"].min()
            repeated = whole[whole["step"] == resumed].drop(columns=["step", "epoch"], errors="ignore")
            logged = repeated.columns[repeated.notna().any()]
            again = (frame["step"] == resumed) & frame.reindex(columns=logged).notna().any(axis=1)
            frame = frame[~(again | (frame["step"] > resumed))]
        whole = pd.concat([frame, whole], ignore_index=True)
    return whole


def keep_metrics(folder: Path) -> None:
    """Rename the metrics of an interrupted run before it resumes."""
    _number(folder / "metrics.csv")


def keep_results(folder: Path) -> None:
    """Rename the results of a finished run before it goes on, and remove its report: they are of older weights."""
    _number(folder / "results.json")
    for name in ("evidence.json", "report.html"):
        (folder / name).unlink(missing_ok=True)


def keep_config(folder: Path) -> None:
    """Rename the settings of an interrupted run before it resumes with others."""
    _number(folder / "config.yaml")


def config_files(folder: Path) -> list[Path]:
    """Return the files of the settings that a run was trained with, the latest last."""
    latest = folder / "config.yaml"
    return [*sorted(folder.glob("config-*.yaml")), *([latest] if latest.is_file() else [])]


def _number(path: Path) -> None:
    """Rename ``NAME.END`` to ``NAME-000.END``, or the next free number."""
    if path.is_file():
        earlier = len(list(path.parent.glob(f"{path.stem}-*{path.suffix}")))
        path.rename(path.with_stem(f"{path.stem}-{earlier:03d}"))


def join_metrics(folder: Path) -> None:
    """Join the metrics of all parts of a resumed run into one ``metrics.csv``."""
    parts = sorted(folder.glob("metrics-*.csv"))
    if parts:
        with atomic(folder / "metrics.csv") as partial:
            read_metrics(folder).to_csv(partial, index=False)
        for part in parts:
            part.unlink()
