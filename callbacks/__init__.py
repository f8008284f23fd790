"""Lightning callbacks: the weight schedule, the clinical evaluations, and what keeps a run safe."""

from callbacks.finite_loss import StopOnNonFiniteLoss
from callbacks.interruption import SaveOnInterrupt
from callbacks.off_diagonal_schedule import OffDiagonalSchedule
from callbacks.step_seed import StepSeed

__all__ = ["OffDiagonalSchedule", "SaveOnInterrupt", "StepSeed", "StopOnNonFiniteLoss"]
