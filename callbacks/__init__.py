"""Lightning callbacks: the weight schedule, the clinical evaluations, and what keeps a run safe."""

from callbacks.best_metrics import BestMetrics
from callbacks.biometry_evaluation import BiometryEvaluation
from callbacks.composite_score import CompositeScore
from callbacks.confusing_pairs import ConfusingPairs
from callbacks.evaluate_last_epoch import EvaluateLastEpoch
from callbacks.evaluation_media import EvaluationMedia
from callbacks.finite_loss import StopOnNonFiniteLoss
from callbacks.gradient_norms import GradientNorms
from callbacks.interruption import SaveOnInterrupt
from callbacks.last_checkpoint import BestCheckpoint, LastCheckpoint
from callbacks.logit_correlation import LogitCorrelation
from callbacks.off_diagonal_phase import OffDiagonalPhase
from callbacks.off_diagonal_schedule import OffDiagonalSchedule
from callbacks.plane_evaluation import PlaneEvaluation
from callbacks.probe import Probe
from callbacks.representation_evaluation import RepresentationEvaluation
from callbacks.resolved_config import SaveResolvedConfig
from callbacks.skipped_samples import SkippedSamples
from callbacks.step_seed import StepSeed
from callbacks.teacher_cache import TeacherCache
from callbacks.throughput import Throughput
from callbacks.wandb_run import WandbRun, active_run, run_id_of

__all__ = [
    "BestCheckpoint",
    "BestMetrics",
    "BiometryEvaluation",
    "CompositeScore",
    "ConfusingPairs",
    "EvaluateLastEpoch",
    "EvaluationMedia",
    "GradientNorms",
    "LastCheckpoint",
    "LogitCorrelation",
    "OffDiagonalPhase",
    "OffDiagonalSchedule",
    "PlaneEvaluation",
    "Probe",
    "RepresentationEvaluation",
    "SaveOnInterrupt",
    "SaveResolvedConfig",
    "SkippedSamples",
    "StepSeed",
    "StopOnNonFiniteLoss",
    "TeacherCache",
    "Throughput",
    "WandbRun",
    "active_run",
    "run_id_of",
]
