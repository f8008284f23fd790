"""Validate a run's settings and data before its folder or its W&B run exists."""

from __future__ import annotations

import torch
from jsonargparse import Namespace
from lightning import Callback
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from callbacks import BiometryEvaluation, OffDiagonalSchedule, PlaneEvaluation
from datamodules import FetalDataModule
from experiments.plain_errors import built
from experiments.process import first_process
from experiments.runs.loggers import check_loggers
from experiments.runs.teachers import preset_behind
from lightning_modules.distillation import check_settings
from losses import CLIPLoss, Loss
from models import DualEncoder


def check_devices(trainer: Namespace) -> int | None:
    """Refuse devices that this machine lacks; return the number of processes, None for the user's own accelerator."""
    asked = trainer.accelerator
    if not isinstance(asked, str):
        return None  # the user's own class
    try:
        found = _AcceleratorConnector(devices=trainer.devices, num_nodes=trainer.num_nodes, accelerator=asked)
        return len(found._parallel_devices) * int(trainer.num_nodes)
    except (MisconfigurationException, ModuleNotFoundError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        if asked in ("gpu", "cuda") and torch.version.cuda is None:
            reason += (
                "; the installed torch is built without CUDA (make setup TORCH_BACKEND=cu128 changes that)"
            )
        remedy = (
            "give --trainer.devices=1, or --trainer.accelerator=cpu"
            if asked == "auto"
            else "--trainer.accelerator=auto trains on what there is"
        )
        raise ValueError(
            f"trainer.accelerator={asked}, trainer.devices={trainer.devices}: {reason}; {remedy}"
        ) from None


def check_run(config: Namespace, stage: str) -> None:
    """Build every part of a run but its teacher, read its tables, and decode a few images.

    The parts are discarded and the random state is restored, so that the run is the same without the checks.

    Args:
        config: The resolved configuration of a subcommand.
        stage: The subcommand: "fit", "validate", "test" or "predict".
    """
    check_settings(config.model)
    processes = check_devices(config.trainer)
    check_loggers(config)
    with isolate_rng(include_cuda=False):
        loss = built(nn.Module, config.model.get("loss")) or CLIPLoss()
        schedule = built(Callback, config.get("schedule"))
        if isinstance(schedule, OffDiagonalSchedule):
            schedule.check(loss)
        if stage == "fit" and preset_behind(config.model.student) is None:
            built(DualEncoder, config.model.student)
        data: FetalDataModule = built(FetalDataModule, config.data)
        data.setup("fit")
        if stage == "fit":
            if isinstance(loss, Loss) and data.batch_size * (processes or 2) < 2:
                raise ValueError(
                    "data.batch_size=1: the loss compares the pairs of a batch; give at least --data.batch_size=2"
                )
            if config.trainer.devices == "auto" and (processes or 1) > 1 and first_process():
                print(
                    f"trains on all {processes} devices, with batches of {processes} x {data.batch_size} pairs; "
                    "--trainer.devices=1 takes one"
                )
            data.check_batches()
        for evaluation in (
            BiometryEvaluation(**config.biometry.as_dict()),
            PlaneEvaluation(**config.planes.as_dict()),
        ):
            evaluation.test_follows = stage == "fit" and config.score_test_patients
            evaluation.check(data, evaluation.splits(stage, validates=config.trainer.limit_val_batches != 0))
        data.check_images()
