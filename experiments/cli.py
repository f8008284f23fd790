"""Lightning's own command line with this project's defaults, and what happens after a fit."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import wandb
from jsonargparse import Namespace
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info

from callbacks import (
    BestCheckpoint,
    BestMetrics,
    BiometryEvaluation,
    CompositeScore,
    ConfusingPairs,
    EvaluateLastEpoch,
    EvaluationMedia,
    GradientNorms,
    LastCheckpoint,
    LogitCorrelation,
    OffDiagonalPhase,
    PlaneEvaluation,
    Probe,
    RepresentationEvaluation,
    SaveOnInterrupt,
    SaveResolvedConfig,
    SkippedSamples,
    StepSeed,
    StopOnNonFiniteLoss,
    Throughput,
    WandbRun,
)
from callbacks.console import StartSummary, progress_for
from datamodules import FetalDataModule
from datamodules.redaction import check_complete
from experiments import plots, results, wandb_results
from experiments.early_checks import built, check_run
from experiments.loggers import settled_loggers
from experiments.plain_errors import PlainErrorParser
from experiments.quick import is_quick, with_bounds
from experiments.recipes import Recipe
from experiments.report import report_finished_run
from experiments.resuming import check_fit, resumable, resume_command
from experiments.run_folder import (
    join_metrics,
    keep_metrics,
    last_as_best,
    refuse_used,
    requeued_checkpoint,
    run_folder,
)
from experiments.run_record import cautions, make_record
from experiments.small_teachers import publish_teacher, settle_teachers
from experiments.wandb_access import first_process
from lightning_modules import DistillationModule
from metrics.names import VAL_COMPOSITE
from models.trust import TRUST

SUBCOMMANDS = ("fit", "validate", "test", "predict")


class SonoDistillCLI(LightningCLI):
    """LightningCLI over `DistillationModule`, with evaluation, checkpoints and results built in.

    Beside Lightning's own options it takes ``--experiment``, ``--run``, ``--schedule``, ``--biometry.*``,
    ``--planes.*``, ``--representation.*``, ``--paper_selection`` and ``--score_test_patients``.

    Args:
        recipe: Files of ours that the command line builds on.
        command: Arguments of ``python -m experiments``, as an interrupted run quotes them.
    """

    def __init__(self, recipe: Recipe, command: Sequence[str]) -> None:
        self.recipe = recipe
        self.command = command
        self.started = time.monotonic()
        files = [str(path) for path in recipe.config_files]
        super().__init__(
            DistillationModule,
            FetalDataModule,
            subclass_mode_data=True,
            parser_class=PlainErrorParser,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=SaveResolvedConfig,
            parser_kwargs={name: {"default_config_files": files} for name in SUBCOMMANDS},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that are this project's."""
        parser.add_argument(
            "--experiment", type=str, default="custom", help="Folder of the run under outputs/."
        )
        parser.add_argument("--run", type=str | None, default=None, help="Name of the run's own folder.")
        parser.add_argument(
            "--schedule", type=Callback | None, default=None, help="Schedule of the off-diagonal weight."
        )
        parser.add_argument(
            "--paper_selection",
            "--paper-selection",
            type=bool,
            nargs="?",
            const=True,
            default=False,
            help="Select the checkpoint on all images and report on the same, as the paper does. For comparison "
            "only.",
        )
        parser.add_argument(
            "--score_test_patients",
            type=bool,
            default=True,
            help="After training, score the selected checkpoint on the test patients and write the report.",
        )
        parser.add_argument(
            TRUST,
            type=bool,
            nargs="?",
            const=True,
            default=False,
            help="Build classes that a checkpoint names.",
        )
        parser.add_argument(
            "--quick",
            type=bool | None,
            nargs="?",
            const=True,
            default=None,
            help="Bound corpus, teacher, epochs and evaluation (QUICK=1); by default where trainer.fast_dev_run, "
            "overfit_batches or limit_*_batches bounds something.",
        )
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

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, and look at the checkpoint that it names before anything reads it.

        Raises:
            ValueError: The checkpoint is a URL, or holds more than tensors and primitives; or a setting is a URL that
                was redacted when an earlier run wrote it.
            FileNotFoundError: There is no such checkpoint, or it is a folder.
        """
        super().parse_arguments(parser, args)
        if is_quick(self.config[self.config.subcommand]):
            self.config = parser.parse_args(with_bounds(sys.argv[1:]))
        config = self.config[self.config.subcommand]
        check_complete(dict(config.items()))
        config.ckpt_path = resumable(config.get("ckpt_path"), config.experiment, config.run)
        if config.get("weights_only") is None:
            config.weights_only = True  # Lightning's own default runs what a pickle says

    def before_instantiate_classes(self) -> None:
        """Settle the run's folder, check settings and data, and train a missing teacher.

        Raises:
            ValueError: The run cannot start with these settings or data, or its folder holds a run already.
            FileNotFoundError: A file or folder that the settings name is missing.
        """
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            if not config.get("ckpt_path") and config.run is None:
                _go_on_when_requeued(config)
            check_fit(config)
        self.folder = run_folder(
            config.experiment,
            self.recipe.preset,
            int(config.seed_everything),
            config.run,
            config.get("ckpt_path"),
        )
        if self.subcommand == "fit" and not config.get("ckpt_path"):
            refuse_used(self.folder)
        config.trainer.default_root_dir = str(self.folder)
        config.checkpoint.dirpath = str(self.folder / "checkpoints")
        if config.paper_selection:
            for evaluation in (config.biometry, config.planes):
                evaluation.selection_split = evaluation.test_split = "all"
            print("selecting and reporting on all images, as the paper does: for comparison only")
        trains = self.subcommand == "fit"
        check_run(config, str(self.subcommand))
        settle_teachers(config, self.recipe, trains)
        self.record, self.cautions = make_record(config), cautions(config, trains)
        self._warn()
        # Loggers are built last: W&B's run exists as soon as its logger does.
        self.asked_loggers, config.trainer.logger = config.trainer.logger, False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the callbacks that every run has, and hand the model the record of the run."""
        self.model.run_record = self.record
        config = self.config_init[self.subcommand]
        # `trainer.checkpoint_callback` may be one that the user added: the first of all.
        self.selection: BestCheckpoint = config.checkpoint
        callbacks = list(config.trainer.callbacks or [])
        if config.schedule is not None:
            callbacks.append(config.schedule)
        callbacks += [
            StepSeed(int(config.seed_everything)),
            EvaluateLastEpoch(),
            StopOnNonFiniteLoss(),
            *_tracking(),
            StartSummary(self.recipe.preset, self.config[self.subcommand], self.folder),
        ]
        callbacks += progress_for(callbacks, config.trainer.enable_progress_bar)
        config.trainer.callbacks = callbacks
        for evaluation in (config.biometry, config.planes):
            evaluation.test_follows = self.subcommand == "fit" and config.score_test_patients
        named = self.datamodule.benchmarks
        scored = [*config.biometry.chosen_of(named), *config.planes.chosen_of(named)]
        if self.subcommand == "fit" and (not scored or config.composite.wanted == []):
            _keep_the_last_as_best(config.checkpoint)
        trainer = super().instantiate_trainer(**kwargs)
        # Behind the checkpoint of the best weights, whose memory these two save.
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        self._begin_folder(trainer)
        if trainer.loggers:
            callbacks.insert(0, LearningRateMonitor(logging_interval="step"))
        callbacks += [LastCheckpoint(), SaveOnInterrupt(partial(resume_command, self.command))]
        return trainer

    def _begin_folder(self, trainer: Trainer) -> None:
        """Make the run's folder and its loggers, now that nothing of its settings can fail any more."""
        config = self.config[self.subcommand]
        config.trainer.logger = self.asked_loggers
        settled = settled_loggers(config, self.folder, resumed=self.subcommand == "fit")
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.subcommand == "fit" and config.get("ckpt_path") and first_process():
            keep_metrics(self.folder)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.loggers = built(list[Logger], settled) or []
        # What is this run's alone stays out of its config.yaml: a run that repeats it would write here.
        config.trust = False
        if self.subcommand == "fit":
            config.run = config.ckpt_path = None

    def after_fit(self) -> None:
        """Score the selected checkpoint once on the test patients and write the results."""
        trainer: Any = self.trainer
        if trainer.fast_dev_run:
            self._warn()
        if trainer.fast_dev_run or trainer.interrupted:
            return
        best = self.selection.best_model_path or last_as_best(trainer, self.folder)
        if self.config[self.subcommand].score_test_patients:
            # Not verbose: our own table shows what matters of it, results.json holds all.
            self.trainer.test(
                self.model, datamodule=self.datamodule, ckpt_path=best, weights_only=True, verbose=False
            )
            self.finish(best)
        if self.trainer.is_global_zero and self._get(self.config, "experiment") == "teacher":
            publish_teacher(Path(best), self.recipe, self.config[self.subcommand])

    def after_test(self) -> None:
        """Write the results of an evaluation."""
        self.finish(self._get(self.config, "ckpt_path") or "")

    def finish(self, checkpoint: str) -> None:
        """Write results.json, plots and report, print the table, and send the results to W&B last."""
        if not self.trainer.is_global_zero:
            return
        config = self.config[self.subcommand]
        record = results.collect(
            self.trainer,
            self.model,
            self.selection,
            experiment=config.experiment,
            preset=self.recipe.preset,
            seed=int(config.seed_everything),
            checkpoint=checkpoint,
            seconds=time.monotonic() - self.started,
        )
        record |= {"run": self.record, "cautions": self.cautions}
        results.write(record, self.folder)
        join_metrics(self.folder)
        plots.write_all(self.folder, self.datamodule)
        results.print_table(record, self.folder)
        try:
            print(f"report: {report_finished_run(self.folder, self.model, self.datamodule)}")
        except (ValueError, OSError) as error:
            later = f"make report RUN={self.folder}"
            print(f"warning: no report ({error}); the results are whole: {later}", file=sys.stderr)
        finally:
            _publish(self.trainer, self.folder, record)
            self._warn()

    def _warn(self) -> None:
        """Print what spoils the run's scores, at its start and at its end."""
        for caution in self.cautions if first_process() else ():
            print(f"warning: {caution}", flush=True)


def _publish(trainer: Trainer, folder: Path, record: dict[str, Any]) -> None:
    """Send the results to W&B; that the network is gone by now must not look as if the run had failed."""
    try:
        wandb_results.publish(trainer, folder, record)
    except (wandb.errors.Error, OSError) as error:
        reason = " ".join(str(error).split())
        print(f"warning: W&B did not get the results ({reason}); they are in {folder}", file=sys.stderr)


def _keep_the_last_as_best(checkpoint: BestCheckpoint) -> None:
    """Do without a score where nothing is scored."""
    if checkpoint.monitor == VAL_COMPOSITE:
        checkpoint.monitor = None
        rank_zero_info("no benchmark to select by: best.ckpt holds the last weights")


def _tracking() -> list[Callback]:
    """Return what every run logs beside its losses; the phase stands behind the schedule."""
    probe = Probe()
    return [
        WandbRun(),
        OffDiagonalPhase(),
        GradientNorms(),
        Throughput(),
        LogitCorrelation(probe),
        ConfusingPairs(probe),
    ]


def _go_on_when_requeued(config: Namespace) -> None:
    """Resume a sweep's run that W&B's agent starts again, whose command names no checkpoint."""
    checkpoint = requeued_checkpoint(config.experiment)
    if checkpoint is not None:
        config.ckpt_path = str(checkpoint)
        if first_process():
            print(f"W&B: this run was queued again; going on from {checkpoint}")
