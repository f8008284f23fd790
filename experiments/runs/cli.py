"""Lightning's own command line with this project's defaults, and what happens after a fit."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import wandb
from filelock import FileLock
from jsonargparse import Namespace
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import LearningRateMonitor, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks import (
    AnswerCalibration,
    BestCheckpoint,
    EMAWeightAveraging,
    EvaluateLastEpoch,
    GradientNorms,
    LastCheckpoint,
    ProbeBatch,
    StepSeed,
    StopOnNonFiniteLoss,
    Throughput,
    WandbRun,
)
from callbacks.tracking.console import StartSummary, progress_for
from datamodules.redaction import check_complete
from experiments.config import CAUTION, ConfigCLI
from experiments.plain_errors import built
from experiments.process import first_process
from experiments.recipe_files import TEACHER_EXPERIMENT
from experiments.report import report_finished_run
from experiments.report.terminal import print_table
from experiments.runs import plots, results, wandb_access
from experiments.runs.early_checks import check_run
from experiments.runs.loggers import settled_loggers
from experiments.runs.resuming import changed_settings, check_fit, resumable, resume_command
from experiments.runs.run_folder import (
    continues,
    join_metrics,
    keep_config,
    keep_metrics,
    keep_results,
    last_as_best,
    lock_folder,
    refuse_used,
    requeued_checkpoint,
    run_folder,
)
from experiments.runs.run_record import cautions, make_record, run_config
from experiments.runs.teachers import publish_teacher, settle_teachers
from lightning_modules import TimmSyncBatchNorm
from metrics.benchmarks import BENCHMARKS
from metrics.names import STUDENT, TEACHER, VAL_COMPOSITE
from models.checkpoints.integrity import check_archive
from models.checkpoints.weights import read_entry, write_entry
from models.files import atomic, write_json
from models.messages import count
from models.student.base import ANSWERS, OWN_CLASSES, Calibration
from models.student.checkpoint import CheckpointStudent


class SonoDistillCLI(ConfigCLI):
    """Run a training or an evaluation, with checkpoints, evaluation, tracking and results built in.

    Args:
        arguments: Arguments as the Lightning CLI takes them.
        command: Arguments of ``sonodistill`` behind them, which the message of an interrupted run quotes.
    """

    lock: FileLock | None = None

    def __init__(self, arguments: Sequence[str], command: Sequence[str]) -> None:
        self.command = command
        self.started = time.monotonic()
        super().__init__(arguments)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments, and check the checkpoint that they name before anything reads it."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        check_complete(dict(config.items()))
        config.ckpt_path = resumable(config.get("ckpt_path"), config.experiment, config.run)
        if config.get("weights_only") is None:
            config.weights_only = True  # Lightning's own default runs what a pickle says

    def before_instantiate_classes(self) -> None:
        """Choose the run's folder, and check settings, data and teacher."""
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            if not config.get("ckpt_path") and config.run is None:
                _go_on_when_requeued(config, self.recipe.preset)
            check_fit(config)
        self.folder = run_folder(
            config.experiment,
            self.recipe.preset,
            int(config.seed_everything),
            config.run,
            config.get("ckpt_path"),
        )
        if self.subcommand == "fit" and not continues(self.folder, config.get("ckpt_path")):
            refuse_used(self.folder)
        config.trainer.default_root_dir = str(self.folder)
        config.checkpoint.dirpath = str(self.folder / "checkpoints")
        if config.paper_selection:
            for evaluation in (config.biometry, config.planes):
                evaluation.selection_split = evaluation.test_split = "all"
            print("selecting and reporting on all images, as the paper does: for comparison only")
        trains = self.subcommand == "fit"
        check_run(config, str(self.subcommand))
        settle_teachers(config)
        self.record, self.cautions = make_record(config), cautions(config, trains)
        self.changed = None
        if trains and config.get("ckpt_path"):
            self.changed = changed_settings(Path(config.ckpt_path).resolve().parent.parent, config)
        self.cautions += [self.changed] if self.changed else []
        if self.subcommand == "predict":  # the others are about scores
            self.cautions = [caution for caution in self.cautions if CAUTION in caution]
        self._warn()
        # Loggers are built last: building W&B's logger starts its run.
        self.asked_loggers, config.trainer.logger = config.trainer.logger, False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the callbacks of every run."""
        self.model.run_record = self.record
        config = self.config_init[self.subcommand]
        # `trainer.checkpoint_callback` is the first of all, which the user may have added.
        self.selection: BestCheckpoint = config.checkpoint
        given = config.trainer.callbacks or []
        callbacks = list(given) if isinstance(given, Sequence) else [given]
        if any(isinstance(callback, WeightAveraging) for callback in callbacks):
            raise ValueError(
                "trainer.callbacks: with Lightning's weight averaging the scores would be of the weights that are "
                "not averaged; use callbacks.EMAWeightAveraging"
            )
        if sum(isinstance(callback, EMAWeightAveraging) for callback in callbacks) > 1:
            raise ValueError(
                "trainer.callbacks: two EMAWeightAveraging; keep one (--trainer.callbacks.decay=... sets the decay of "
                "the preset's)"
            )
        self.answers = _answers(self.config[self.subcommand], create=self.subcommand == "fit")
        if config.schedule is not None:
            callbacks.append(config.schedule)
        callbacks += [
            StepSeed(int(config.seed_everything)),
            EvaluateLastEpoch(),
            StopOnNonFiniteLoss(),
            WandbRun(),
            GradientNorms(),
            Throughput(),
            ProbeBatch(),
            StartSummary(self.recipe.preset, self.config[self.subcommand], self.folder),
        ]
        callbacks += progress_for(callbacks, config.trainer.enable_progress_bar)
        config.trainer.callbacks = callbacks
        for evaluation in (config.biometry, config.planes):
            evaluation.test_follows = self.subcommand == "fit" and config.score_test_patients
        named = self.datamodule.benchmarks
        scored = [*config.biometry.chosen_of(named), *config.planes.chosen_of(named)]
        if self.subcommand == "fit" and not scored:
            _keep_the_last_as_best(config.checkpoint)
        given = config.trainer.plugins or []
        plugins = list(given) if isinstance(given, Sequence) else [given]
        if SLURMEnvironment.detect() and not (plugins or "TORCHELASTIC_RUN_ID" in os.environ):
            # Lightning's own handler of SIGUSR1 would save within a step, and resume without our counters.
            plugins = [SLURMEnvironment(auto_requeue=False)]
        if config.trainer.sync_batchnorm:
            plugins.append(TimmSyncBatchNorm())
        config.trainer.plugins = plugins
        trainer = super().instantiate_trainer(**kwargs)
        # After the checkpoint of the best weights, whose state it saves.
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        self._begin_folder(trainer)
        callbacks.append(self.answers)
        if trainer.loggers:
            callbacks.insert(0, LearningRateMonitor(logging_interval="step"))
        callbacks.append(LastCheckpoint(partial(resume_command, self.command)))
        return trainer

    def _begin_folder(self, trainer: Trainer) -> None:
        """Create the run's folder and its loggers, now that every setting has been checked."""
        config = self.config[self.subcommand]
        config.trainer.logger = self.asked_loggers
        settled = settled_loggers(config, self.folder, resumed=self.subcommand == "fit")
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.subcommand == "fit" and first_process():
            self.lock = lock_folder(self.folder)
            if config.get("ckpt_path") and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                keep_metrics(self.folder)
                keep_results(self.folder)
            if self.changed:
                keep_config(self.folder)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.loggers = built(list[Logger], settled) or []
        # These stay out of config.yaml: a repeat of the run would write into this folder.
        config.trust = False
        if self.subcommand == "fit":
            config.run = config.ckpt_path = None

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; after Ctrl-C the exit status is 130, where Lightning's is 1."""
        try:
            super()._run_subcommand(subcommand)
        except SystemExit as stop:
            if self.trainer.interrupted and not isinstance(stop, SIGTERMException):
                sys.exit(128 + signal.SIGINT)
            raise
        finally:
            if self.lock is not None:
                self.lock.release()

    def after_fit(self) -> None:
        """Score the selected checkpoint once on the test patients and write the results."""
        trainer: Any = self.trainer
        if trainer.fast_dev_run:
            self._warn()
        if trainer.fast_dev_run or trainer.interrupted:
            return
        best = self.selection.best_model_path or last_as_best(trainer, self.folder)
        check_archive(Path(best))
        if self.config[self.subcommand].score_test_patients:
            # Our own table replaces Lightning's verbose one; results.json holds everything.
            self.trainer.test(
                self.model, datamodule=self.datamodule, ckpt_path=best, weights_only=True, verbose=False
            )
            self.finish(best)
        elif trainer.is_global_zero:
            join_metrics(self.folder)
        if self.trainer.is_global_zero and self._get(self.config, "experiment") == TEACHER_EXPERIMENT:
            publish_teacher(Path(best), self.recipe, self.config[self.subcommand])

    def after_test(self) -> None:
        """Write the results of an evaluation."""
        self.finish(self._get(self.config, "ckpt_path") or "")

    def after_predict(self) -> None:
        """Write the answers of Lightning's ``predict`` to ``predictions.csv``, one file for each process."""
        config = self.config_init[self.subcommand]
        prompts = {**config.planes.protocol.content(), "biometry": config.biometry.protocol.biometry}
        stored = self.answers.stored
        fits = stored is not None and stored.prompts == prompts
        student = CheckpointStudent(self.model.student, prompts, stored if fits else None)
        rows = [
            {"image": name, **row}
            for batch in self.trainer.predict_loop.predictions
            for name, row in zip(
                batch["name"], student.classify(batch["embedding"].cpu().numpy()), strict=True
            )
        ]
        rank = self.trainer.global_rank
        path = self.folder / ("predictions.csv" if rank == 0 else f"predictions-{rank}.csv")
        with atomic(path) as partial:
            pd.DataFrame(rows).to_csv(partial, index=False)
        print(f"predictions of {count(len(rows), 'image')}: {path}")

    def finish(self, checkpoint: str) -> None:
        """Write results.json, plots and report, print the table, and send the results to W&B last."""
        if not self.trainer.is_global_zero:
            return
        # The test has left it on the CPU; the report embeds images.
        self.model.to(self.trainer.strategy.root_device)
        if self.answers.create and self.answers.calibration is not None:
            write_entry(Path(checkpoint), ANSWERS, asdict(self.answers.calibration))
        own = {one.name: dict(one.classes) for one in BENCHMARKS.values() if one.own and one.classes}
        if self.answers.create and own:
            write_entry(Path(checkpoint), OWN_CLASSES, own)
        config = self.config[self.subcommand]
        record = {
            "experiment": config.experiment,
            "data": self.recipe.preset,
            "seed": int(config.seed_everything),
            "scored": TEACHER if self._scores_teacher(config) else STUDENT,
            "seconds": round(time.monotonic() - self.started, 1),
            **results.collect(
                self.trainer, self.model, self.selection, checkpoint, trained=self.subcommand == "fit"
            ),
            "run": self.record,
            "cautions": self.cautions,
        }
        write_json(self.folder / "results.json", record)
        join_metrics(self.folder)
        plots.write_all(self.folder, self.datamodule)
        print_table(record, self.folder)
        try:
            print(f"report: {report_finished_run(self.folder, self.model, self.datamodule)}")
        except (ValueError, OSError) as error:
            later = f"make report RUN={self.folder}"
            print(f"warning: no report ({error}); the results are complete: {later}", file=sys.stderr)
        finally:
            _publish(self.trainer, self.folder, record)
            self._warn()

    def _scores_teacher(self, config: Namespace) -> bool:
        """Return whether a teacher alone stands in the student's place."""
        if config.experiment != "evaluate":
            return bool(config.experiment == TEACHER_EXPERIMENT)
        path = (config.model.student.get("init_args") or {}).get("path")
        trained = run_config(str(path)) if path else None
        return TEACHER_EXPERIMENT in (*self.command[1:3], (trained or {}).get("experiment"))

    def _warn(self) -> None:
        """Print what makes the run's scores unreliable, at its start and at its end."""
        for caution in self.cautions if first_process() else ():
            print(f"warning: {caution}", flush=True)


def _publish(trainer: Trainer, folder: Path, record: dict[str, Any]) -> None:
    """Send the results to W&B; a lost network is a warning, since the run has succeeded."""
    try:
        wandb_access.publish(trainer, folder, record)
    except (wandb.errors.Error, OSError) as error:
        reason = " ".join(str(error).split())
        print(f"warning: W&B did not get the results ({reason}); they are in {folder}", file=sys.stderr)


def _keep_the_last_as_best(checkpoint: BestCheckpoint) -> None:
    """Keep the last weights as best where no benchmark is scored."""
    if checkpoint.monitor == VAL_COMPOSITE:
        checkpoint.monitor = None
        rank_zero_info("no benchmark to select by: best.ckpt holds the last weights")


def _answers(config: Namespace, create: bool) -> AnswerCalibration:
    """Return the callback that calibrates a trained student, or that scores the calibration of an evaluated one."""
    path = config.get("ckpt_path") or str((config.model.student.get("init_args") or {}).get("path"))
    if create:
        return AnswerCalibration()
    stored = read_entry(path, ANSWERS)
    return AnswerCalibration(
        None if stored is None else Calibration(**stored), False, read_entry(path, OWN_CLASSES)
    )


def _go_on_when_requeued(config: Namespace, preset: str) -> None:
    """Resume a run that SLURM, torchrun or W&B's agent starts again; its command names no checkpoint."""
    checkpoint = requeued_checkpoint(config.experiment, preset, int(config.seed_everything))
    if checkpoint is not None:
        config.ckpt_path = resumable(str(checkpoint), config.experiment, None)
        if first_process():
            print(f"this run was requeued; resuming from {config.ckpt_path}", flush=True)
