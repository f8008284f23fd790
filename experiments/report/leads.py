"""A run's lead over another on validation patients, before and after its weight crossed zero."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.report.training import ATTRACT, REPEL, Dynamics

NOTABLE_F1 = 0.01


@dataclass(frozen=True)
class Leads:
    """The lead in the validation composite on both sides of the zero crossing.

    A lead that was there before cannot come from repulsion.

    Attributes:
        before: At the last evaluation while the weight attracted.
        after: At the last evaluation while it repelled.
    """

    before: float
    after: float

    @property
    def change(self) -> float:
        """How far the lead grew; 0 for what is not notable."""
        change = self.after - self.before
        return change if abs(change) >= NOTABLE_F1 else 0.0


def leads_over(found: Dynamics, other: Dynamics) -> Leads | None:
    """Work out the leads at the epochs that both runs were evaluated at.

    Returns:
        The leads; None where there is no such epoch on one side of the crossing.
    """
    rival = {point.epoch: point.composite for point in other.evaluations}
    leads = []
    for phase in (ATTRACT, REPEL):
        gaps = [p.composite - rival[p.epoch] for p in found.of_phase(phase) if p.epoch in rival]
        if not gaps:
            return None
        leads.append(gaps[-1])
    return Leads(*leads)
