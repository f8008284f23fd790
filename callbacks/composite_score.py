"""Log the score that selects the checkpoint."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer

from callbacks.zero_shot_evaluation import ZeroShotEvaluation
from metrics.composite import composite_score
from metrics.names import HEADLINE, STUDENT, VAL_COMPOSITE


class CompositeScore(Callback):
    """Log ``val/composite`` from the evaluations of the same epoch (see `metrics.composite`).

    In epochs in which an evaluation rests, nothing is logged: a score of fewer benchmarks is another score.

    Args:
        benchmarks: What the score is built from; None for those that the data module names, without those that
            their evaluation was told to leave out.
    """

    def __init__(self, benchmarks: list[str] | None = None) -> None:
        self.wanted = benchmarks
        self.evaluations: list[ZeroShotEvaluation] = []
        self.benchmarks: tuple[str, ...] = ()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the evaluations.

        Raises:
            ValueError: A benchmark is scored by no evaluation, or this callback stands before one of them.
        """
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self.evaluations = [callback for callback in callbacks if isinstance(callback, ZeroShotEvaluation)]
        if any(callbacks.index(evaluation) > callbacks.index(self) for evaluation in self.evaluations):
            raise ValueError("CompositeScore must stand behind the evaluations in trainer.callbacks")
        named = getattr(getattr(trainer, "datamodule", None), "benchmarks", ())
        scored = {name for evaluation in self.evaluations for name in evaluation.benchmarks}
        left_out = {name for evaluation in self.evaluations for name in evaluation.KNOWN} - scored
        asked = set(named) - left_out if self.wanted is None else self.wanted
        self.benchmarks = tuple(asked)
        lacking = sorted(set(asked) - scored)
        if lacking:
            raise ValueError(
                f"composite score: no evaluation scores the benchmarks {lacking}; add it, "
                "or name the wanted ones with CompositeScore's `benchmarks`"
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the score when all its parts are of this epoch."""
        if trainer.sanity_checking or not self.benchmarks:
            return
        parts = {
            name: details[HEADLINE[name]]
            for evaluation in self.evaluations
            if evaluation.evaluated
            for name, details in evaluation.validation[STUDENT].items()
            if name in self.benchmarks
        }
        if set(parts) == set(self.benchmarks):
            pl_module.log(VAL_COMPOSITE, composite_score(parts), prog_bar=True, sync_dist=True)
