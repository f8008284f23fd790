"""The run that a repulsive run is compared with, and the settings that the two should share."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import losses
from experiments.recipe_files import PRESETS, ROOT
from experiments.report.read_run import Run, read_run
from experiments.report.training import dynamics

STATIC = "static-kd"
STATIC_LOSS = losses.CoupledKDLoss
WITHOUT_TEACHER = {
    name for name in losses.__all__ if getattr(getattr(losses, name), "needs_teacher", True) is False
}
SCHEDULED = {str(getattr(getattr(losses, name), "scheduled", None)) for name in losses.__all__}
SHARED = (
    "trainer.max_epochs", "trainer.max_steps", "trainer.precision", "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val", "model.learning_rate", "model.weight_decay", "model.warmup_steps", "model.betas",
    "model.eps", "model.max_logit_scale", "data.class_path",
)  # fmt: skip
TOWERS = ("student", "teacher")
DATA, LOSS = "data.init_args.", "model.loss.init_args."
# How images are read and scored, and how a loss is computed: they do not change what is learnt.
WITHOUT_EFFECT = ("num_workers", "workers", "cache", "pin_memory", "evaluation_batch_size", "kernel")


def subject_of(runs: Sequence[Run]) -> Run:
    """Return the run that the report is about: the first that repels, else the first."""
    return next((run for run in runs if dynamics(run).repels), runs[0])


def reference_of(runs: Sequence[Run]) -> Run | None:
    """Return the run without repulsion to compare with, None when there is none beside the subject.

    One that distils is preferred, then ``static-kd``, and then the one with the fewest other settings.
    """
    subject = subject_of(runs)
    candidates = [run for run in runs if run is not subject and not dynamics(run).repels]

    def rank(run: Run) -> tuple[bool, bool, int]:
        return not distils(run), run.experiment != STATIC, len(differences(subject, run))

    return min(candidates, key=rank, default=None)


def distils(run: Run) -> bool:
    """Return whether a run's loss uses a teacher, as far as its configuration tells."""
    model = run.config.get("model") or {}
    loss = str((model.get("loss") or {}).get("class_path", "losses.CLIPLoss"))
    return bool(model.get("teacher")) and loss.rpartition(".")[2] not in WITHOUT_TEACHER


def newest_static(run: Run) -> Run | None:
    """Find the newest finished ``static-kd`` run with the same data, seed and settings.

    Args:
        run: A run in ``outputs/EXP/RUN``; ``outputs/static-kd`` is searched.

    Returns:
        The run; None when there is none, or when `run` never repels and needs none.
    """
    if not dynamics(run).repels:
        return None
    found = []
    for results in run.folder.parent.parent.glob(f"{STATIC}/*/results.json"):
        try:
            candidate = read_run(results)
            fits = not dynamics(candidate).repels and set(differences(run, candidate)) <= {"teacher"}
        except (ValueError, OSError, TypeError, KeyError, AttributeError):
            continue  # a damaged run must not stop the report of another one
        if fits:
            found.append(candidate)
    return max(found, key=lambda candidate: str(candidate.record.get("finished")), default=None)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration by dotted names, as the command line has them; lists are not flattened."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def shown(value: Any) -> str:
    """Write a setting as YAML would, on one line."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def differences(run: Run, reference: Run) -> dict[str, str]:
    """Return what two runs should share and do not: name of the setting -> the difference in words."""
    pairs = {name: (run.record.get(name), reference.record.get(name)) for name in ("data", "seed")}
    models = [other.config.get("model") or {} for other in (run, reference)]
    pairs |= {name: (models[0].get(name), models[1].get(name)) for name in TOWERS}
    mine, theirs = flatten(run.config), flatten(reference.config)
    for name in dict.fromkeys([*mine, *theirs]):
        title = _title(name)
        # An argument of only one of the two losses belongs to its class, which is reported separately.
        if title and not (name.startswith(LOSS) and not (name in mine and name in theirs)):
            pairs[title] = mine.get(name), theirs.get(name)
    # A tower is a whole configuration: too long for a sentence.
    return {
        name: name if name in TOWERS else f"{name} ({_brief(pair[0])}, not {_brief(pair[1])})"
        for name, pair in pairs.items()
        if pair[0] != pair[1]
    }


def _title(name: str) -> str:
    """Return the report's name of a setting, empty for one in which the two may differ."""
    argument = name.removeprefix(DATA).removeprefix(LOSS)
    if argument == name:
        argument = name.partition(".")[2] if name in SHARED else ""
    return "" if argument in SCHEDULED.union(WITHOUT_EFFECT) else argument.replace("_", " ")


def _brief(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:g}" if isinstance(value, float) else shown(value)


def loss_in_words(run: Run) -> str:
    """Return a run's loss and the weight that it starts from or keeps, as far as its configuration tells."""
    loss = (run.config.get("model") or {}).get("loss") or {}
    name = str(loss.get("class_path", "losses.CLIPLoss")).rpartition(".")[2]
    schedule = (run.config.get("schedule") or {}).get("init_args") or {}
    if "start" in schedule:
        return f"{name} from {_brief(schedule['start'])}"
    weight = getattr(getattr(losses, name, None), "scheduled", None)
    value = (loss.get("init_args") or {}).get(weight)
    return name if value is None else f"{name} at {_brief(value)}"


def static_command(run: Run) -> str:
    """Return the command that trains `STATIC` with this run's data, seed and options.

    Options of the run's own loss and schedule are left out, except loss arguments that both losses have.
    """
    words: list[str] = []
    for word in map(str, run.record.get("command") or []):
        if words and words[-1].startswith("--") and "=" not in words[-1] and not word.startswith("--"):
            words[-1] += f"={word}"
        else:
            words.append(word)
    options = [word for word in words if word.startswith("--") and _applies_to_static(word)]
    if not any(word.startswith("--seed_everything") for word in options):
        options.append(f"--seed_everything={run.record.get('seed')}")
    arguments = " ".join(map(shlex.quote, options)).replace('"', r"\"")
    return f'make train EXP={STATIC} DATA={shlex.quote(str(run.record["data"]))} ARGS="{arguments}"'


def _applies_to_static(option: str) -> bool:
    name, _, value = option.removeprefix("--").partition("=")
    if name == "config":
        path = Path(value).resolve()  # EXP and DATA stand for the recipes; a resolved file would override EXP
        return path.parent not in (ROOT, PRESETS) and path.name != "config.yaml"
    if name.startswith(LOSS):
        return name.removeprefix(LOSS) in set(inspect.signature(STATIC_LOSS).parameters) - SCHEDULED
    return not name.startswith(("model.loss", "schedule", "run", "ckpt_path"))
