"""How far the student still sees as its teacher does."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer

from callbacks.probe import Probe
from metrics.logit_correlation import logit_correlation
from metrics.names import DIAGONAL_CORRELATION, OFF_DIAGONAL_CORRELATION


class LogitCorrelation(Callback):
    """Log the correlation of the student's and the teacher's logits on matched and on mismatched pairs.

    Logged at the start of training and at every evaluation, on a fixed batch of validation pairs. Pairs of
    equal captions are left out of the mismatched ones.

    Args:
        probe: The batch, shared with other callbacks.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the probe, and log where the student starts."""
        self.probe.prepare(trainer, pl_module)
        if self.probe.ready:
            for logger in trainer.loggers:
                logger.log_metrics(self._values(pl_module), step=trainer.global_step)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log where the student is now."""
        if self.probe.ready and not trainer.sanity_checking:
            pl_module.log_dict(self._values(pl_module), batch_size=1, rank_zero_only=True)

    def _values(self, pl_module: LightningModule) -> dict[str, float]:
        probe = self.probe
        diagonal, off_diagonal = logit_correlation(
            probe.student_logits(pl_module), probe.teacher_logits, probe.same_caption()
        )
        return {DIAGONAL_CORRELATION: diagonal, OFF_DIAGONAL_CORRELATION: off_diagonal}
