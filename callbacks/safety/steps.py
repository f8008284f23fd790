"""Callbacks of every training step: a seed that resumes exactly, and a stop at a loss that is not finite."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from losses.base import scheduled_weight
from models.checkpoints.integrity import tensors_digest
from models.checkpoints.trust import ALLOWED, TRUST
from models.files import atomic
from models.loading import TEACHER_PREFIX, student_entry

CAPTURE = "nonfinite"
"""Folder of a run with the step that it stopped at."""


class StepSeed(Callback):
    """Seed torch before every training batch from (seed, epoch, batch number, rank).

    Dropout and stochastic depth then draw the same numbers in a resumed run as in an uninterrupted one, without
    generator state in the checkpoint.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        sequence = np.random.SeedSequence([self.seed, trainer.current_epoch, batch_idx, trainer.global_rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint32)[0]))


class StopOnNonFiniteLoss(Callback):
    """Stop when the loss is NaN or infinite, before it reaches the weights, and keep what repeats the step.

    ``nonfinite/rank0.pt`` in the run's folder, one file for each process, holds the batch, the random state, the
    weights and their digest; ``sonodistill replay FOLDER`` repeats the step.
    """

    _finite: Tensor | None = None  # of the latest loss, on the CPU once `_copied` has happened
    _copied: torch.cuda.Event | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the batch and the random state; must come after `StepSeed`."""
        self._stop_if_not_finite(trainer, pl_module)  # of the batch before, where gradients are accumulated
        self._step = {"batch": batch, "batch_number": batch_idx, "random": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            self._step["random_cuda"] = torch.cuda.get_rng_state(pl_module.device)

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        """Check the loss; on a GPU only start to copy the flag, so that the CPU does not wait."""
        self._finite = torch.isfinite(loss.detach()).to("cpu", non_blocking=True)
        if loss.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._stop_if_not_finite(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        """Check the loss on a GPU, before gradients reach the weights; the backward pass is queued by now."""
        self._stop_if_not_finite(trainer, pl_module)

    def _stop_if_not_finite(self, trainer: Trainer, pl_module: Any) -> None:
        """Capture the step and raise ValueError if the latest loss is not finite."""
        if self._copied is not None:
            self._copied.synchronize()
        finite, self._finite, self._copied = self._finite, None, None
        if finite is None or finite:
            return
        terms: dict[str, Any] = pl_module.terms
        listed = ", ".join(f"{name}={float(value.detach()):.4g}" for name, value in terms.items())
        kept = sorted(map(str, Path(trainer.default_root_dir, "checkpoints").glob("[!.]*.ckpt")))
        folder = Path(trainer.default_root_dir) / CAPTURE
        try:
            self._capture(trainer, pl_module, folder / f"rank{trainer.global_rank}.pt")
            parts = (pl_module.student, pl_module.teacher, pl_module.loss)
            own = all(type(part).__module__.partition(".")[0] in (*ALLOWED, "builtins") for part in parts)
            words = ["-m", "experiments", "replay", str(folder), *([] if own else [TRUST])]
            command = shlex.join([sys.executable, *words])
            repeat = f"{command} repeats the step"
        except OSError as error:
            repeat = f"the step was not captured ({error})"
        half = ", or train with --trainer.precision=bf16-mixed" if str(trainer.precision)[:2] == "16" else ""
        raise ValueError(
            f"the loss is not finite at step {trainer.global_step} ({listed}); {repeat}; "
            f"kept checkpoints: {', '.join(kept) or 'none yet'}; "
            f"lower --model.learning_rate or the off-diagonal weight{half}"
        )

    def _capture(self, trainer: Trainer, module: Any, path: Path) -> None:
        scheduled = scheduled_weight(module.loss)
        state = {k: v for k, v in module.state_dict().items() if not k.startswith(TEACHER_PREFIX)}
        content = {
            **self._step,
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "processes": trainer.world_size,
            "precision": str(trainer.precision),
            "terms": {name: float(value.detach()) for name, value in module.terms.items()},
            "scheduled": None if scheduled is None else getattr(*scheduled),
            "student": student_entry(module.student),
            "state_dict": state,
            "weights": tensors_digest(state),
        }
        with atomic(path) as partial, partial.open("wb") as stream:
            torch.save(content, stream)  # into a path, torch makes a RuntimeError of a full disk
