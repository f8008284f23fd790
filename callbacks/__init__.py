"""Lightning callbacks: schedule, evaluation, tracking, safety."""

from callbacks.evaluation.answer_calibration import AnswerCalibration
from callbacks.evaluation.biometry_evaluation import BiometryEvaluation
from callbacks.evaluation.evaluation_media import EvaluationMedia
from callbacks.evaluation.plane_evaluation import PlaneEvaluation
from callbacks.evaluation.representation_evaluation import RepresentationEvaluation
from callbacks.evaluation.selection import BestMetrics, CompositeScore, EvaluateLastEpoch
from callbacks.off_diagonal_schedule import OffDiagonalSchedule
from callbacks.safety.checkpoints import BestCheckpoint, LastCheckpoint
from callbacks.safety.steps import StepSeed, StopOnNonFiniteLoss
from callbacks.teacher_cache import TeacherCache
from callbacks.tracking.probe import ProbeBatch
from callbacks.tracking.skipped_samples import SkippedSamples
from callbacks.tracking.step_metrics import GradientNorms, Throughput
from callbacks.tracking.wandb_run import SaveResolvedConfig, WandbRun, active_run, run_id_of
from callbacks.weight_averaging import EMAWeightAveraging

__all__ = [
    "AnswerCalibration",
    "BestCheckpoint",
    "BestMetrics",
    "BiometryEvaluation",
    "CompositeScore",
    "EMAWeightAveraging",
    "EvaluateLastEpoch",
    "EvaluationMedia",
    "GradientNorms",
    "LastCheckpoint",
    "OffDiagonalSchedule",
    "PlaneEvaluation",
    "ProbeBatch",
    "RepresentationEvaluation",
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
