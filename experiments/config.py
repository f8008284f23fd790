"""Resolve a run's configuration from experiment, data preset and overrides.

A run reads, later ones overriding: ``base.yaml`` (the paper's recipe), the data preset (towers, sizes and epochs that
fit the corpus), for ``EXP=teacher`` the preset's teacher tower, the experiment (loss and schedule), the command line.
"""

from __future__ import annotations

import json
import os
from argparse import SUPPRESS
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import datamodules
import models
from callbacks import (
    BestCheckpoint,
    BestMetrics,
    BiometryEvaluation,
    CompositeScore,
    EvaluationMedia,
    PlaneEvaluation,
    RepresentationEvaluation,
    SaveResolvedConfig,
    SkippedSamples,
)
from datamodules import FetalDataModule
from datamodules.evaluation.protocol import Protocol
from experiments.plain_errors import PlainErrorParser, UsageError
from experiments.process import joined
from experiments.recipe_files import (
    ALIASES,
    FOLDERS,
    QUANTISED_EXPERIMENT,
    TEACHER_EXPERIMENT,
    config_options,
    experiment_names,
    preset_file,
    recipe_of,
    tower,
    training_arguments,
)
from lightning_modules import DistillationModule
from metrics.names import VAL_COMPOSITE
from models.checkpoints.trust import TRUST
from models.files import digest

# jsonargparse finds classes by their short names (--data=PhantomDataModule) only among those that are loaded.
for _room in (models, datamodules):
    for _name in _room.__all__:
        getattr(_room, _name)

TEACHER_OPTION, STUDENT_OPTION, PROTOCOL_OPTION = "--teacher", "--student", "--protocol"

QUICK = "--quick=true"
# Settings of a quick run (QUICK=1). They override presets and experiments; the user's options override them.
QUICK_SETTINGS = (
    QUICK,
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=4",
    "--trainer.log_every_n_steps=1",
    "--data.most_images=24",
    "--data.batch_size=8",
    "--data.num_workers=0",
    "--biometry.most_prompts=1",
    "--planes.most_prompts=1",
    "--representation.probe_seeds=1",
    "--media.samples=2",
)
# Options that are on without a value -> default and help.
FLAGS = {
    "--paper_selection": (False, "Select and report on all images, as the paper does. For comparison only."),
    "--score_test_patients": (
        True,
        "Score the selected checkpoint on the test patients, calibrate its answers and write the report.",
    ),
    TRUST: (False, "Build classes that a checkpoint names."),
    "--quick": (
        None,
        "Bound corpus, epochs and evaluation (QUICK=1); by default where trainer.fast_dev_run, "
        "overfit_batches or limit_*_batches bounds something.",
    ),
}
CAUTION = "a quick run on a few images, prompts and steps: its numbers mean nothing"


def evaluation_arguments(preset: str, model: str, options: Sequence[str] = ()) -> list[str]:
    """Return the Lightning CLI arguments of ``evaluate PRESET MODEL``.

    Args:
        preset: Name of the data preset to score on.
        model: Path of a checkpoint or of a folder that `transformers` saved, or ``teacher`` for the preset's
            teacher.
        options: The user's other options. They are part of the run's name, so that evaluations with different
            teachers, prompts or splits do not overwrite each other.
    """
    config = preset_file(preset)
    if model == TEACHER_EXPERIMENT:
        student = tower(preset, "teacher")
        run = f"teacher-{preset}"
    else:
        path = _checkpoint(model)
        student = {"class_path": "models.from_checkpoint", "init_args": {"path": model}}
        parents = [part for part in path.resolve().parts[1:-1] if part != "checkpoints"][-2:]
        run = "-".join([*parents, path.stem, "on", preset])
    run = "-".join([run, *_named(options)])
    arguments = ["test", f"--config={config}", "--experiment=evaluate", f"--run={run}"]
    # Our own table replaces Lightning's verbose one; results.json holds everything.
    arguments += [f"--model.student={json.dumps(student)}", "--model.loss=losses.CLIPLoss", "--verbose=false"]
    return arguments + (["--model.teacher=null"] if model == TEACHER_EXPERIMENT else [])


def _checkpoint(model: str) -> Path:
    """Return the checkpoint to evaluate, or the folder that `transformers` saved."""
    path = Path(model)
    if not path.exists():
        known = model in (*experiment_names(), *ALIASES)
        problem = f"EXP={model}: an experiment to train" if known else f"CKPT={model}: no such file"
        raise FileNotFoundError(
            f"{problem}; give CKPT=outputs/EXP/RUN/checkpoints/best.ckpt (written by make train), "
            f"or EXP={TEACHER_EXPERIMENT}"
        )
    best = next(path.glob("checkpoints/best.ckpt"), None) or next(path.glob("best.ckpt"), None)
    if best is not None:
        raise FileNotFoundError(f"CKPT={model}: a run's folder; give CKPT={best}")
    return path


def _named(options: Sequence[str]) -> list[str]:
    """Return parts of a run's name that identify these options; none without options."""
    if not options:
        return []
    given = [option.partition("=") for option in options]
    files = [Path(value).stem for option, _, value in given if option in ("--teacher", "--protocol")]
    return [*files, digest(list(options))[:6]]


def data_arguments(preset: str) -> list[str]:
    """Return the Lightning CLI arguments for the data folders set in the environment."""
    folders = {argument: os.environ.get(variable) for argument, variable in FOLDERS.get(preset, {}).items()}
    return [f"--data.init_args.{argument}={folder}" for argument, folder in folders.items() if folder]


def expand_file_options(
    preset: str, arguments: list[str], scored: str = "student", experiment: str | None = None
) -> list[str]:
    """Replace ``--teacher``, ``--student`` and ``--protocol`` by Lightning CLI arguments.

    Args:
        preset: Name of the data preset.
        arguments: The user's arguments.
        scored: Model that an evaluation scores; "teacher" puts the teacher in the student's place.
        experiment: Experiment that is trained; ``srkd-qat`` continues from a student's checkpoint.
    """
    expanded = []
    for argument in joined(arguments):
        named = named_file(argument)
        if named is None:
            expanded.append(argument)
            continue
        option, value = named
        if option == PROTOCOL_OPTION:
            Protocol.load(value)  # reports a malformed file
            expanded += [f"--biometry.protocol={value}", f"--planes.protocol={value}"]
        elif option == TEACHER_OPTION:
            place = "student" if scored == "teacher" else "teacher"
            expanded.append(f"--model.{place}={_loaded(value)}")
        elif experiment == QUANTISED_EXPERIMENT:
            expanded.append(f"--model.student.init_args.checkpoint={value}")
        elif tower(preset, "student")["class_path"] == "models.OpenCLIPEncoder":
            # Weights only: the preset sets normalisation statistics and context length.
            expanded.append(f"--model.student.init_args.weights={value}")
        else:
            expanded.append(f"--model.student={_loaded(value)}")
    return expanded


def named_file(argument: str) -> tuple[str, str] | None:
    """Return option and path of ``--teacher``, ``--student`` or ``--protocol``; None for any other argument."""
    option, _, value = argument.partition("=")
    if option not in (TEACHER_OPTION, STUDENT_OPTION, PROTOCOL_OPTION):
        return None
    if not value:
        raise ValueError(f"{option}: give a path, {option}=path")
    if not Path(value).exists():
        raise FileNotFoundError(f"{option.removeprefix('--').upper()}={value}: no such file")
    return option, value


def _loaded(path: str) -> str:
    return json.dumps({"class_path": "models.from_checkpoint", "init_args": {"path": path}})


def is_quick(config: Namespace) -> bool:
    """Return whether a run is quick: ``--quick``, or by default any of Lightning's limits on batches.

    A fraction for ``limit_train_batches`` does not count: learning curves need it.
    """
    if config.quick is not None:
        return bool(config.quick)
    trainer = config.trainer
    limits = [trainer.overfit_batches, trainer.limit_val_batches, trainer.limit_test_batches]
    counted = [limit for limit in (*limits, trainer.limit_train_batches) if isinstance(limit, int)]
    shares = [limit for limit in limits if isinstance(limit, float)]
    return bool(trainer.fast_dev_run) or any(counted) or any(0 < share < 1 for share in shares)


def whole_counts(config: Namespace) -> Namespace:
    """Turn a number of batches that was read as 3.0 into 3, in place; Lightning refuses the float.

    Python keeps one object for ``Union[int, float]`` and ``Union[float, int]``, so the type that an option is read as
    first depends on which library was imported first.
    """
    for name, value in config.trainer.items():
        if name.endswith("_batches") and isinstance(value, float) and value > 1 and value.is_integer():
            config.trainer[name] = int(value)
    return config


def with_quick_settings(arguments: Sequence[str]) -> list[str]:
    """Return Lightning CLI arguments with the `QUICK_SETTINGS` that they lack, behind the last ``--config``."""
    place = max((position for position, _ in config_options(arguments)), default=1)  # behind the subcommand
    given = {argument.partition("=")[0].replace(".init_args.", ".") for argument in arguments}
    bounds = [setting for setting in QUICK_SETTINGS if setting.partition("=")[0] not in given]
    return [*arguments[:place], *bounds, *arguments[place:]]


class ConfigCLI(LightningCLI):
    """The Lightning CLI with this project's options.

    Args:
        arguments: Arguments as the Lightning CLI takes them, the subcommand first.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)
        self.recipe = recipe_of(self.arguments)
        files = [str(path) for path in self.recipe.config_files]
        super().__init__(
            DistillationModule,
            FetalDataModule,
            subclass_mode_data=True,
            parser_class=PlainErrorParser,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=SaveResolvedConfig,
            save_config_kwargs={"save_to_log_dir": False},  # the folder of the first logger
            parser_kwargs={name: {"default_config_files": files} for name in self.subcommands()},
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # a static method of Lightning
        """Return the command that is run; a parser of each other one would take as long to build."""
        command = self.arguments[0]
        return {command: LightningCLI.subcommands()[command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that are this project's."""
        parser.add_argument(
            "--experiment", type=str, default="custom", help="Folder of the run under outputs/."
        )
        parser.add_argument("--preset", type=str | None, default=None, help=SUPPRESS)  # of config.yaml
        parser.add_argument("--run", type=str | None, default=None, help="Name of the run's own folder.")
        parser.add_argument(
            "--schedule", type=Callback | None, default=None, help="Schedule of the off-diagonal weight."
        )
        for option, (default, text) in FLAGS.items():
            parser.add_argument(option, type=bool | None, nargs="?", const=True, default=default, help=text)
        parser.add_lightning_class_args(BiometryEvaluation, "biometry")
        parser.add_lightning_class_args(PlaneEvaluation, "planes")
        parser.add_lightning_class_args(RepresentationEvaluation, "representation")
        # Behind the evaluations, whose results these four read.
        parser.add_lightning_class_args(CompositeScore, "composite")
        parser.add_lightning_class_args(BestMetrics, "best")
        parser.add_lightning_class_args(EvaluationMedia, "media")
        parser.add_lightning_class_args(SkippedSamples, "skipped")
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.filename": "best",
                "checkpoint.monitor": VAL_COMPOSITE,
                "checkpoint.mode": "max",
                "checkpoint.enable_version_counter": False,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ARG002
        """Parse the arguments; a quick run is parsed again with its bounds. One seed sets weights and data."""
        if any(word.partition("=")[0] == "--preset" for word in self.arguments):
            raise ValueError("--preset: give the data preset by its name: make train DATA=NAME")
        self.config = parser.parse_args(self.arguments)
        if is_quick(whole_counts(self.config[self.config.subcommand])):
            self.config = parser.parse_args(with_quick_settings(self.arguments))
            whole_counts(self.config[self.config.subcommand])
        config = self.config[self.config.subcommand]
        config.preset = self.recipe.preset
        if type(config.seed_everything) is int and not 0 <= config.seed_everything < 2**32:
            raise ValueError(
                f"--seed_everything={config.seed_everything}: give a number from 0 to {2**32 - 1}"
            )
        if config.get("data.init_args.seed", 0) is None and type(config.seed_everything) is int:
            config["data.init_args.seed"] = config.seed_everything


class _ParseOnlyCLI(ConfigCLI):
    """Parses ``fit`` and does nothing else."""

    def _set_seed(self) -> None: ...

    def before_instantiate_classes(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...


def resolve(experiment: str, preset: str, options: Sequence[str] = ()) -> Namespace:
    """Return the resolved configuration of a training; nothing is built, seeded or written.

    `options` are those of ``sonodistill train``.
    """
    own = expand_file_options(preset, list(options), experiment=experiment)
    try:
        return _parsed((*training_arguments(experiment, preset), *data_arguments(preset), *own)).clone()
    except UsageError as error:
        raise ValueError(f"EXP={experiment} DATA={preset}: {error.message}") from error


@cache  # about a second; a run resolves the same configuration several times
def _parsed(arguments: tuple[str, ...]) -> Namespace:
    config: Namespace = _ParseOnlyCLI(arguments).config.fit
    return config
