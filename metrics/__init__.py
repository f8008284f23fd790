"""Metrics: biometry validity, zero-shot classification, linear probes, retrieval, geometry; the list of benchmarks."""

from metrics.benchmarks import composite_score
from metrics.biometry import AGES_DAYS, BiometryValidity, biometry_scores, predicted_age_days
from metrics.growth_chart import gestational_age_weeks, head_circumference_mm, within_chart
from metrics.zero_shot import ZeroShotClassification, classification_scores

__all__ = [
    "AGES_DAYS",
    "BENCHMARKS",
    "Benchmark",
    "BiometryValidity",
    "ZeroShotClassification",
    "biometry_scores",
    "classification_scores",
    "composite_score",
    "gestational_age_weeks",
    "head_circumference_mm",
    "predicted_age_days",
    "within_chart",
]
