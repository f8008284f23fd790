"""Distillation module: training step of a student, a frozen teacher and a loss; optimiser and learning rate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_modules.grad_cache import in_chunks
from losses import CLIPLoss, Embeddings
from losses.base import scheduled_weight
from metrics import names
from models import DualEncoder, QuantisedStudent, freeze
from models.checkpoints.inspection import student_architecture, tower_name
from models.checkpoints.weights import mismatch
from models.encoders.memory_format import compile_model, to_channels_last
from models.evaluation_mode import evaluation_mode
from models.loading import TEACHER_PREFIX, check_vocabulary, student_entry
from models.zero_shot import encode_images

RUN_RECORD = "run"
"""Top-level key of our checkpoints: the record of the run's data (see `experiments.runs.run_record`)."""
COLUMNS = 32
"""Token columns are cut to a multiple of this on a GPU: few lengths, so few compilations."""
LEAST = {
    "learning_rate": 0, "eps": 0, "weight_decay": 0, "warmup_steps": 0, "max_logit_scale": 1, "grad_cache_chunk": 1,
}  # fmt: skip
NO_STEP_LIMIT = (
    "trainer.max_epochs: the schedules need the number of steps; set trainer.max_epochs or trainer.max_steps"
)


class DistillationModule(LightningModule):
    """Train `student` with `loss`, with a frozen `teacher` if the loss needs one.

    The optimiser's defaults are the paper's (arXiv 2603.05421, training details).

    Args:
        student: The model that is trained.
        teacher: The model to imitate. Frozen, always in eval mode, never in checkpoints. None for losses without
            a teacher.
        loss: Any module called as ``loss(student: Embeddings, teacher: Embeddings | None)`` that returns
            its terms by name, ``total`` among them (see `losses`).
        learning_rate: Peak learning rate of AdamW.
        betas: AdamW's moment decays.
        eps: AdamW's denominator offset.
        weight_decay: Decay of matrices; none for norms, biases and the logit scale.
        warmup_steps: Optimiser steps of linear warm-up, before a cosine to zero.
        max_logit_scale: Upper limit of the student's logit scale, applied after every step.
        compile: Compile both models' forward pass with `torch.compile`: True for its default backend ("inductor",
            which needs Triton on a GPU and a C++ compiler on a CPU), or the name of another one. Weights,
            checkpoints and evaluation do not change.
        grad_cache_chunk: Pairs that are embedded at a time: memory for the activations of so many, the gradients of the
            whole batch, one more forward pass of the student. Null embeds the batch at once. See
            `lightning_modules.grad_cache`.
    """

    def __init__(
        self,
        student: DualEncoder,
        teacher: DualEncoder | None = None,
        loss: nn.Module | None = None,
        learning_rate: float = 1e-5,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.1,
        warmup_steps: int = 500,
        max_logit_scale: float = 100.0,
        compile: bool | str = False,
        grad_cache_chunk: int | None = None,
    ) -> None:
        super().__init__()
        if grad_cache_chunk is not None and isinstance(student, QuantisedStudent):
            raise ValueError(
                "model.grad_cache_chunk: models.QuantisedStudent updates its activation ranges in each of the two "
                "passes, so that gradients would be wrong; remove it"
            )
        self.grad_cache_chunk = grad_cache_chunk
        self.student = student
        self.teacher = None if teacher is None else freeze(teacher)
        # Channels-last convolutions are faster (measured on a CPU with the phantom's towers).
        for model in [self.student] if self.teacher is None else [self.student, self.teacher]:
            to_channels_last(model)
            if compile:
                compile_model(model, compile if isinstance(compile, str) else "inductor")
        self.loss = CLIPLoss() if loss is None else loss
        try:
            inspect.signature(self.loss.forward).bind(None, None)
        except TypeError as error:
            raise ValueError(
                f"model.loss: {type(self.loss).__name__}.forward must take (student, teacher): {error}"
            ) from None
        self.needs_teacher = bool(getattr(self.loss, "needs_teacher", False))
        if self.needs_teacher and teacher is None:
            raise ValueError(
                f"model.teacher: {type(self.loss).__name__} needs a teacher; "
                "set model.teacher, or choose a loss without one such as losses.CLIPLoss"
            )
        build: Any = getattr(self.loss, "build", None)
        if build is not None:
            build(student.embed_dim, None if teacher is None else teacher.embed_dim)
        self.learning_rate = learning_rate
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.max_logit_scale = max_logit_scale
        check_settings(self)
        self.terms: dict[str, Tensor] = {}
        self.run_record: dict[str, Any] = {}  # of primitives; saved in every checkpoint

    def embeddings(self, batch: dict[str, Any], role: str) -> Embeddings:
        """Embed one role's view of a batch: unit-length embeddings [B, D] of that role's model.

        Args:
            batch: A training batch (see `datamodules.base`): ``<role>_image`` [B, 3, S, S],
                ``<role>_tokens`` [B, L]; or ``<role>_embedding`` [B, 2, D], stored embeddings (see
                `callbacks.TeacherCache`); optionally ``caption_id`` and ``class_id`` [B].
            role: ``student`` or ``teacher``.
        """
        model: DualEncoder = getattr(self, role)
        kept = batch.get(f"{role}_embedding")
        if kept is None:
            image, text = in_chunks(
                model, batch[f"{role}_image"], batch[f"{role}_tokens"], self.grad_cache_chunk
            )
        else:
            image, text = kept.unbind(dim=1)
        ids = batch.get("caption_id"), batch.get("class_id")
        return Embeddings(image, text, model.logit_scale, model.logit_bias, *ids)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """On a GPU, cut the token columns behind the longest text, to a multiple of `COLUMNS`."""
        if self.device.type != "cpu":
            for role in ("student", "teacher"):
                tokens, model = batch.get(f"{role}_tokens"), getattr(self, role)
                if tokens is not None and model is not None:
                    used = tokens[:, : -(-model.columns_of(tokens) // COLUMNS) * COLUMNS]
                    # Lightning's copy waits for nothing only from pinned, contiguous memory.
                    batch[f"{role}_tokens"] = used.contiguous().pin_memory() if tokens.is_pinned() else used
        return batch

    def on_fit_start(self) -> None:
        """Set the precision of the loss's matrix products; warn that accumulation adds no negatives."""
        self._product_precision = torch.get_float32_matmul_precision()
        half = self.trainer.precision not in ("32-true", "64-true")
        if half and self.device.type == "cuda" and self._product_precision == "highest":
            # Only the loss still has float32 products. TF32 (11 bits) rounds them less than half precision rounded its
            # embeddings, and is 8 times faster on an H100. Evaluations compute without it.
            torch.set_float32_matmul_precision("high")
        batches = self.trainer.accumulate_grad_batches
        if batches > 1:
            rank_zero_warn(
                f"accumulate_grad_batches={batches}: the loss compares pairs within one batch only; for more "
                "negatives raise the batch size or the number of processes"
            )

    def on_fit_end(self) -> None:
        """Restore the precision of float32 products, a setting of the process."""
        torch.set_float32_matmul_precision(self._product_precision)

    def compute_loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the loss terms of a batch by name, ``total`` among them (scalars)."""
        student = self.embeddings(batch, "student")
        teacher = None
        if self.needs_teacher:
            with torch.no_grad():
                teacher = self.embeddings(batch, "teacher")
        terms: dict[str, Tensor] = self.loss(student, teacher)
        scalars = isinstance(terms, dict) and all(
            isinstance(term, Tensor) and term.numel() == 1 for term in terms.values()
        )
        if not scalars or "total" not in terms or terms["total"].requires_grad != torch.is_grad_enabled():
            raise ValueError(
                f"model.loss: {type(self.loss).__name__} must return a dictionary of scalar tensors with one, total, "
                "to differentiate"
            )
        return terms

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the total loss of one batch; log its terms under ``train/``, the scheduled weight and its sign."""
        self.terms = self.compute_loss(batch)
        size = batch["student_image"].shape[0]
        logged = {names.loss_name("train", name): value.detach() for name, value in self.terms.items()}
        logged[names.LOGIT_SCALE] = self.student.logit_scale.detach()
        if self.needs_teacher and self.teacher is not None:
            logged[names.TEACHER_LOGIT_SCALE] = self.teacher.logit_scale.detach()
        if scheduled := scheduled_weight(self.loss):
            # A tensor: Lightning would copy a number to a GPU and wait for it.
            weight = torch.full((), float(getattr(*scheduled)), device=self.device)
            logged |= {f"train/{scheduled[1]}": weight, names.OFF_DIAGONAL_PHASE: weight.sign()}
        self.log_dict(logged, batch_size=size)
        self.log("loss", self.terms["total"].detach(), prog_bar=True, logger=False, batch_size=size)
        return self.terms["total"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log every loss term of the validation patients' pairs under ``val/loss/``."""
        self._log_held_out("val", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log every loss term of the test patients' pairs under ``test/loss/``."""
        self._log_held_out("test", batch)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Return the ``name`` of each image of a batch and its unit-length ``embedding`` [B, D], float32."""
        with evaluation_mode(self.student) as student:
            return {"name": batch["name"], "embedding": encode_images(student, batch["image"])}

    def _log_held_out(self, stage: str, batch: dict[str, Any]) -> None:
        if not batch:  # of a split without images
            return
        with torch.compiler.set_stance("force_eager"):  # compiling once more, for eval mode, takes longer
            terms = {names.loss_name(stage, name): value for name, value in self.compute_loss(batch).items()}
        self.log_dict(terms, batch_size=batch["student_image"].shape[0], sync_dist=True)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then clamp the logit scale, which keeps training stable (Radford et al. 2021)."""
        super().optimizer_step(*args, **kwargs)
        self.student.clamp_logit_scale(self.max_logit_scale)

    def configure_optimizers(self) -> Any:
        """Return AdamW with a warm-up and cosine schedule per optimiser step."""
        total_steps = self.trainer.estimated_stepping_batches
        if total_steps == float("inf"):
            raise ValueError(NO_STEP_LIMIT)
        optimizer = torch.optim.AdamW(
            parameter_groups([self.student, self.loss], self.weight_decay),
            lr=self.learning_rate,
            betas=self.betas,
            eps=self.eps,
            # In mixed precision, bfloat16 included, Lightning cannot clip gradients for a fused optimiser. False would
            # also rule out torch's other fast form: 32 ms a step in place of 6 for MobileCLIP2-S0 on an H100.
            fused=None if self.trainer.precision.endswith("-mixed") else True,
        )
        curve = partial(warmup_cosine, warmup_steps=self.warmup_steps, total_steps=int(total_steps))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, curve)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": names.LEARNING_RATE},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remove the teacher; add the run's record and the student's recipe and preprocessing, which rebuild it."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(TEACHER_PREFIX)}
        checkpoint["student"] = student_entry(self.student)
        checkpoint[RUN_RECORD] = self.run_record

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the teacher's weights to the checkpoint, which is saved without them."""
        if student_architecture(checkpoint, "the checkpoint") is None:
            raise ValueError(
                "the checkpoint was not written by this project; start from its weights with --student=FILE"
            )
        check_vocabulary(checkpoint["student"], "the checkpoint")
        if self.trainer.state.fn == "fit":
            # The length of the cosine requests the training loader before Lightning restores the counters at which
            # the loader resumes (`datamodules.pairs.loaders.resume_position`).
            self.trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])
        own = self.state_dict()
        checkpoint["state_dict"].update({k: v for k, v in own.items() if k.startswith(TEACHER_PREFIX)})
        differences = mismatch(own, checkpoint["state_dict"], {})
        if differences:
            held, mine = map(tower_name, (checkpoint["student"]["recipe"], self.student.recipe()))
            raise ValueError(
                f"the checkpoint (student {held}) does not fit this run (student {mine}): {differences}"
            )


def check_settings(module: Any) -> None:
    """Check the ranges of the numbers of a `DistillationModule`, or of its settings: a ValueError names the first."""
    for name, least in LEAST.items():
        value = getattr(module, name)
        if value is None and name == "grad_cache_chunk":  # the whole batch at once
            continue
        if value is None or not least <= value < math.inf:
            raise ValueError(f"model.{name} must be at least {least} and finite, not {value}")
    if not all(0 <= beta < 1 for beta in module.betas):
        raise ValueError(f"model.betas must be at least 0 and below 1, not {list(module.betas)}")


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters into decayed matrices and undecayed vectors and scalars: AdamW's groups, none empty.

    Norm gains, biases and logit scales have at most one axis and are not decayed (paper, training details; the
    convention of CLIP). Convolution kernels and embeddings have two or more. Shared parameters count once.
    """
    trainable = [parameter for parameter in nn.ModuleList(modules).parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [one for one in trainable if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in trainable if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Return the learning-rate factor in [0, 1] at optimiser step `step`.

    Rises linearly to 1 over `warmup_steps`, then falls along a half cosine to 0 at `total_steps`. In a run of fewer
    than twice as many steps the rise takes at most a tenth, so that a smoke run still trains.
    """
    warmup = min(warmup_steps, total_steps // 10) if total_steps < 2 * warmup_steps else warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return 0.5 * (1.0 + math.cos(math.pi * progress))
