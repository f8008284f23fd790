from .benchmarks import BENCHMARKS, Benchmark, composite_score
from .biometry import AGES_DAYS, biometry_scores, predicted_age_days
from .growth_chart import gestational_age_weeks, head_circumference_mm, within_chart
from .zero_shot import classification_scores

__all__ = [
    "AGES_DAYS",
    "BENCHMARKS",
    "Benchmark",
    "biometry_scores",
    "classification_scores",
    "composite_score",
    "gestational_age_weeks",
    "head_circumference_mm",
    "predicted_age_days",
    "within_chart",
]
