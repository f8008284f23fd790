"""The run that a repulsive run is compared with, and the settings that the two should share."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import losses
from experiments.process import joined
from experiments.recipe_files import PRESETS, READING, ROOT
from experiments.report.read_run import FinishedRun, read_run
from experiments.report.training import dynamics
from metrics.names import STUDENT

STATIC = "static-kd"
STATIC_LOSS = losses.CoupledKDLoss
WITHOUT_TEACHER = {
    name for name in losses.__all__ if getattr(getattr(losses, name), "needs_teacher", True) is False
}
SCHEDULED = {str(getattr(getattr(losses, name), "scheduled", None)) for name in losses.__all__}
SHARED = (
    "trainer.max_epochs", "trainer.max_steps", "trainer.precision", "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val", "trainer.gradient_clip_algorithm", "trainer.limit_train_batches",
    "trainer.overfit_batches", "model.learning_rate", "model.weight_decay", "model.warmup_steps", "model.betas",
    "model.eps", "model.max_logit_scale", "data.class_path",
)  # fmt: skip
TOWERS = {"student": "start", "teacher": "teacher"}  # -> where results.json has the digest of its weights
SEEDS = {"seed", "data_seed"}  # of weights; of order, captions and augmentation


def subject_of(runs: Sequence[FinishedRun]) -> FinishedRun:
    """Return the run that the report is about: the first that repels, else the first."""
    return next((run for run in runs if dynamics(run).repels), runs[0])


def reference_of(runs: Sequence[FinishedRun]) -> FinishedRun | None:
    """Return the run without repulsion to compare with, None when there is none beside the subject.

    One that distils is preferred, then ``static-kd``, and then the one with the fewest other settings.
    """
    subject = subject_of(runs)
    candidates = [run for run in runs if not _repeats(run, subject) and not dynamics(run).repels]

    def rank(run: FinishedRun) -> tuple[bool, bool, int]:
        return not distils(run), run.experiment != STATIC, len(differing_settings(subject, run))

    return min(candidates, key=rank, default=None)


def seed_pairs(
    runs: Sequence[FinishedRun], subject: FinishedRun, reference: FinishedRun
) -> list[tuple[FinishedRun, FinishedRun]]:
    """Return (run, reference) of every seed that both were trained with, in order of the seeds.

    Only the seed may differ from `subject` and from `reference`. Where fewer than two seeds are shared, the two alone.
    """
    mine, theirs = (
        {run.record.get("seed"): run for run in runs if _repeats(run, one)} for one in (subject, reference)
    )
    shared = sorted(seed for seed in mine.keys() & theirs.keys() if seed is not None)
    return [(mine[seed], theirs[seed]) for seed in shared] if len(shared) > 1 else [(subject, reference)]


def _repeats(run: FinishedRun, other: FinishedRun) -> bool:
    return run.experiment == other.experiment and set(differing_settings(run, other)) <= SEEDS


def newest_static(run: FinishedRun) -> FinishedRun | None:
    """Return the newest finished ``static-kd`` run under ``outputs/`` with the same data, seed and settings.

    One with another teacher only where there is none with the same. None when there is none at all, or when `run` never
    repels and needs none.
    """
    if not dynamics(run).repels:
        return None
    found = []
    for results in run.folder.parent.parent.glob(f"{STATIC}/*/results.json"):
        try:
            candidate = read_run(results)
            fits = not dynamics(candidate).repels and set(differing_settings(run, candidate)) <= {"teacher"}
        except (ValueError, OSError, TypeError, KeyError, AttributeError):
            continue  # a damaged run must not stop the report of another one
        if fits:
            found.append(candidate)

    def rank(candidate: FinishedRun) -> tuple[bool, str]:
        return "teacher" not in differing_settings(run, candidate), str(candidate.record.get("finished"))

    return max(found, key=rank, default=None)


def _part(run: FinishedRun, *names: str) -> dict[str, Any]:
    """Return a part of a run's configuration, empty where it is absent or no mapping."""
    part = run.config
    for name in names:
        inner = part.get(name)
        part = inner if isinstance(inner, dict) else {}
    return part


def _loss(run: FinishedRun) -> str:
    return str(_part(run, "model", "loss").get("class_path", "losses.CLIPLoss")).rpartition(".")[2]


def distils(run: FinishedRun) -> bool:
    """Return whether a run's loss uses a teacher, as far as its configuration tells."""
    return bool(_part(run, "model").get("teacher")) and _loss(run) not in WITHOUT_TEACHER


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


def _brief(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:g}" if isinstance(value, float) else shown(value)


def differing_settings(run: FinishedRun, reference: FinishedRun) -> dict[str, str]:
    """Return what two runs should share and do not: name of the setting -> the difference in words."""
    mine, theirs = _shared(run), _shared(reference)
    arguments = [_part(one, "model", "loss", "init_args") for one in (run, reference)]
    # An argument of only one of the two losses belongs to its class, which is reported separately; a kernel computes
    # the same loss.
    for name in arguments[0].keys() & arguments[1].keys() - SCHEDULED - {"kernel"}:
        mine[name], theirs[name] = (one[name] for one in arguments)
    found = {}
    for name in dict.fromkeys([*mine, *theirs]):
        value, other, title = mine.get(name), theirs.get(name), name.replace("_", " ")
        if value != other:
            # A tower is a whole configuration: too long for a sentence.
            found[name] = title if name in TOWERS else f"{title} ({_brief(value)}, not {_brief(other)})"
    return found


def _shared(run: FinishedRun) -> dict[str, Any]:
    """Return the settings that two runs should share, without the loss's arguments."""
    flat = {name.partition(".")[2]: value for name, value in flatten(run.config).items() if name in SHARED}
    read = {
        "data_seed" if name == "seed" else name: value
        for name, value in _part(run, "data", "init_args").items()
        if name not in READING
    }
    corpora = run.record.get("run", {}).get("data", {}).get("corpora", {})
    callbacks = _part(run, "trainer").get("callbacks") or []
    averages = [
        one
        for one in (callbacks if isinstance(callbacks, list) else [callbacks])
        if isinstance(one, dict) and str(one.get("class_path")).endswith("EMAWeightAveraging")
    ]
    return {
        **{name: run.record.get(name) for name in ("data", "seed")},
        "checkpoint": run.record.get("selection", {}).get("monitor") or "the last",
        "weight_averaging": averages[0].get("init_args", {}).get("decay") if averages else "none",
        **{name: _tower(run, name) for name in TOWERS},
        **{f"prompts of {name}": digest for name, digest in _prompts(run).items()},
        **flat,
        **flatten(read),
        **corpora,
    }


def _tower(run: FinishedRun, name: str) -> Any:
    """Return a tower's configuration, with the digest of its weights, where known, for their place."""
    tower: Any = _part(run, "model").get(name)
    digest = (run.record.get("run", {}).get(TOWERS[name]) or {}).get("sha256")
    if digest is None:
        return tower
    arguments = _part(run, "model", name, "init_args").items()
    kept = {key: value for key, value in arguments if key not in ("path", "weights")}
    return {"class_path": tower.get("class_path"), "init_args": kept, "sha256": digest}


def _prompts(run: FinishedRun) -> dict[str, str]:
    scored = run.record.get("details", {}).get(STUDENT, {})
    return {name: details["protocol"] for name, details in scored.items() if "protocol" in details}


def loss_in_words(run: FinishedRun) -> str:
    """Return a run's loss and the weight that it starts from or keeps, as far as its configuration tells."""
    name, schedule = _loss(run), _part(run, "schedule", "init_args")
    if "start" in schedule:
        return f"{name} from {_brief(schedule['start'])}"
    weight = str(getattr(getattr(losses, name, None), "scheduled", None))
    value = _part(run, "model", "loss", "init_args").get(weight)
    return name if value is None else f"{name} at {_brief(value)}"


def static_command(run: FinishedRun) -> str:
    """Return the command that trains `STATIC` with this run's data, seed and options.

    Options of the run's own loss and schedule are left out, except loss arguments that both losses have.
    """
    words = joined([str(word) for word in run.record.get("command") or []])
    options = [word for word in words if word.startswith("--") and _applies_to_static(word)]
    if not any(word.startswith("--seed_everything") for word in options):
        options.append(f"--seed_everything={run.record.get('seed')}")
    arguments = shlex.quote(shlex.join(options).replace("$", "$$"))  # make expands a single dollar sign
    return f"make train EXP={STATIC} DATA={shlex.quote(str(run.record['data']))} ARGS={arguments}"


def _applies_to_static(option: str) -> bool:
    name, _, value = option.removeprefix("--").partition("=")
    if name == "config":
        path = Path(value).resolve()  # EXP and DATA stand for the recipes; a resolved file would override EXP
        return path.parent not in (ROOT, PRESETS) and path.name != "config.yaml"
    if name.startswith("model.loss.init_args."):
        argument = name.rpartition(".")[2]
        return argument in set(inspect.signature(STATIC_LOSS).parameters) - SCHEDULED
    return not name.startswith(("model.loss", "schedule", "experiment", "run", "ckpt_path"))
