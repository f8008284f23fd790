"""Resume an interrupted run: the command to print, and the checkpoints to refuse."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jsonargparse import Namespace

from callbacks.safety.checkpoints import PREVIOUS
from datamodules.redaction import redacted
from experiments.process import first_process, joined, without_secrets
from experiments.recipe_files import FOLDERS, READING
from experiments.runs.run_folder import OUTPUTS, config_files
from lightning_modules.distillation import NO_STEP_LIMIT
from models.checkpoints.inspection import STUDENT
from models.checkpoints.integrity import DamagedError
from models.checkpoints.weights import read_checkpoint
from models.files import read_yaml
from models.messages import first_few, one_line

CHECKPOINT = "--ckpt_path"
# Settings of the trainer that change what is learnt.
TRAINING = (
    "max_epochs", "max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
    "limit_train_batches", "overfit_batches",
)  # fmt: skip


def resume_command(command: Sequence[str], checkpoint: Path) -> str:
    """Return the shell command that resumes what these arguments of ``sonodistill`` started; secrets are redacted."""
    kept = [word for word in joined(command) if not word.startswith(f"{CHECKPOINT}=")]
    kept = without_secrets([*kept, f"{CHECKPOINT}={checkpoint}"])
    if kept[0] != "train":
        return shlex.join([sys.executable, "-m", "experiments", *kept])
    _, experiment, preset, *options = kept
    folders = (variable for variable in FOLDERS.get(preset, {}).values() if os.environ.get(variable))
    given = {
        "EXP": experiment,
        "DATA": preset,
        **{variable: without_secrets(os.environ[variable]) for variable in folders},
        "ARGS": shlex.join(options),
    }
    # make expands a single dollar sign.
    variables = (f"{name}={shlex.quote(value.replace('$', '$$'))}" for name, value in given.items())
    return f"make train {' '.join(variables)}"


def check_same_run(checkpoint: str, config: Namespace) -> None:
    """Refuse to resume a run as another experiment or on other data; a checkpoint outside a run's folder may be any."""
    folder = Path(checkpoint).resolve().parent
    path = folder.parent / "config.yaml"
    if folder.name != "checkpoints" or not path.is_file():
        return
    before = read_yaml(path)
    if not isinstance(before, dict):
        raise ValueError(f"{path}: not a run's settings; restore it, or move it away")
    data = before.get("data")
    asked = {"experiment": config.experiment, "data": config.data.class_path}
    began = {
        "experiment": before.get("experiment"),
        "data": data.get("class_path") if isinstance(data, dict) else data,
    }
    for what, name in began.items():
        if name is not None and name != asked[what]:
            raise ValueError(
                f"{CHECKPOINT}={checkpoint}: this run's {what} is {one_line(name)}, not {asked[what]}; "
                "resume with the EXP= and DATA= that it started with"
            )


def resumable(checkpoint: str | None, experiment: str, run: str | None) -> str | None:
    """Return the checkpoint file of ``--ckpt_path``, after reading it; only a training here writes one.

    Args:
        checkpoint: Value of ``--ckpt_path``: a file, or ``best`` or ``last`` of the run that ``--run`` names.
        experiment: Value of ``--experiment``.
        run: Value of ``--run``.

    Returns:
        The checkpoint's path, for a damaged ``last.ckpt`` that of its predecessor; None without a checkpoint.
    """
    if checkpoint is None:
        return None
    if "://" in checkpoint:
        raise ValueError(f"{CHECKPOINT}={checkpoint}: a URL; download it and give the file's path")
    if checkpoint == "hpc":
        raise ValueError(f"{CHECKPOINT}=hpc: not supported; give the file's path")
    if checkpoint in ("best", "last"):
        checkpoint = _of_run(checkpoint, experiment, run)
    if Path(checkpoint).is_dir():
        last = Path(checkpoint) / "checkpoints" / "last.ckpt"
        remedy = f"{CHECKPOINT}={last}" if last.is_file() else "give a checkpoint's file"
        raise FileNotFoundError(f"{CHECKPOINT}={checkpoint}: a folder; {remedy}")
    try:
        content = read_checkpoint(checkpoint)
    except DamagedError as error:
        before = Path(checkpoint).with_name(PREVIOUS)
        if Path(checkpoint).name != "last.ckpt" or not before.is_file():
            raise
        read_checkpoint(before)
        if first_process():
            print(
                f"warning: {str(error).partition(';')[0]}; resuming from its predecessor {before}", flush=True
            )
        return str(before)
    if not {"loops", STUDENT} <= content.keys():
        raise ValueError(
            f"{CHECKPOINT}={checkpoint}: not written by a training of this project; "
            f"start from its weights with STUDENT={checkpoint}"
        )
    return checkpoint


def _of_run(word: str, experiment: str, run: str | None) -> str:
    """Return the path of a run's ``best`` or ``last`` checkpoint."""
    if run is None:
        raise FileNotFoundError(
            f"{CHECKPOINT}={word}: no run is named; give {OUTPUTS}/EXP/RUN/checkpoints/{word}.ckpt, or --run=RUN"
        )
    path = OUTPUTS / experiment / run / "checkpoints" / f"{word}.ckpt"
    if not path.is_file():
        raise FileNotFoundError(f"{CHECKPOINT}={word}: there is no {path}")
    return str(path)


def check_fit(config: Namespace) -> None:
    """Check the length of a training and the run that it resumes."""
    if config.trainer.max_epochs == -1 and config.trainer.max_steps == -1:
        raise ValueError(NO_STEP_LIMIT)
    for name in ("max_epochs", "max_steps", "limit_train_batches", "accumulate_grad_batches"):
        if config.trainer.get(name) == 0:
            raise ValueError(f"trainer.{name}=0 trains nothing; to score a model: make evaluate CKPT=...")
    if config.get("ckpt_path"):
        check_same_run(config.ckpt_path, config)


def changed_settings(folder: Path, config: Namespace) -> str | None:
    """Describe how settings differ from those of the run in `folder` that they continue; None if they do not."""
    now = _decisive(json.loads(json.dumps(redacted(config.as_dict()), default=str)))
    changes: dict[str, str] = {}
    for path in config_files(folder):
        content = read_yaml(path)
        before = _decisive(content if isinstance(content, dict) else {})
        for name in before.keys() & now.keys():
            if before[name] != now[name]:
                changes.setdefault(
                    name, f"{name} {one_line(before[name], 60)}, now {one_line(now[name], 60)}"
                )
        for one, other, said in ((before, now, "None, now set"), (now, before, "set, now None")):
            for name, value in one.items():
                if value is None and any(key.startswith(f"{name}.") for key in other):
                    changes.setdefault(name, f"{name} {said}")
    if not changes:
        return None
    return f"this run began with other settings: {first_few(sorted(changes.values()))}"


def _decisive(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that change what is learnt, by dotted names."""
    trainer = settings.get("trainer") or {}
    kept = {
        "model": settings.get("model"),
        "data": settings.get("data"),
        "schedule": settings.get("schedule"),
        "seed_everything": settings.get("seed_everything"),
        "trainer": {name: trainer.get(name) for name in TRAINING},
    }
    flat: dict[str, Any] = pd.json_normalize(kept).iloc[0].to_dict()
    return {name: value for name, value in flat.items() if name.rpartition(".")[2] not in READING}
