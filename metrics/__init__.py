"""Metrics: biometry validity, zero-shot classification, linear probes, retrieval, geometry; the list of benchmarks.

Names are imported on first use: what reads an export folder needs no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metrics.benchmarks import BENCHMARKS, Benchmark, composite_score
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

_HOMES = {
    "AGES_DAYS": "metrics.biometry",
    "BENCHMARKS": "metrics.benchmarks",
    "Benchmark": "metrics.benchmarks",
    "BiometryValidity": "metrics.biometry",
    "ZeroShotClassification": "metrics.zero_shot",
    "biometry_scores": "metrics.biometry",
    "classification_scores": "metrics.zero_shot",
    "composite_score": "metrics.benchmarks",
    "gestational_age_weeks": "metrics.growth_chart",
    "head_circumference_mm": "metrics.growth_chart",
    "predicted_age_days": "metrics.biometry",
    "within_chart": "metrics.growth_chart",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'metrics' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
