"""Calibration of a student's answers: the threshold of "none of these", and the interval of the gestational age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from callbacks.evaluation.biometry_evaluation import BiometryEvaluation
from callbacks.evaluation.embedding_pass import embed
from callbacks.evaluation.plane_evaluation import PlaneEvaluation
from datamodules.evaluation.dataset import printed_spacing
from datamodules.record import Record
from metrics import AGES_DAYS
from metrics.benchmarks import BENCHMARKS, HC18
from metrics.calibration import (
    age_similarity_gap,
    conformal_quantile,
    max_minus_mean_logit,
    profile_interval,
    rejection_scores,
    rejection_threshold,
)
from metrics.names import AGE_INTERVAL, NONE_OF_THESE, STUDENT, final_name
from models import DualEncoder
from models.evaluation_mode import evaluation_mode
from models.student.base import Calibration
from models.zero_shot import class_embeddings, class_logits

COVERAGE = 0.9
LEAST = 10
"""Validation images of known classes and of others below which there is no threshold."""
AGES = np.array(AGES_DAYS)


class AnswerCalibration(Callback):
    """Calibrate the tested student's answers on validation patients, and score them on the test patients.

    - "None of these": of each classification benchmark that leaves labels out ("other"), the threshold of
      `metrics.calibration.max_minus_mean_logit` of highest balanced accuracy. The benchmark itself does not change.
    - Age interval: the similarity below the highest that is not exceeded at the true age, for all images of 90 % of the
      patients (split conformal prediction). True is the age of the record, by default that whose median is the head
      circumference.

    Must come after the evaluations, whose prompts and benchmarks it takes.

    Args:
        stored: A calibration to score, that of the checkpoint; None makes one if `create` is set.
        create: Whether to calibrate: after a training, with its selected weights.
        stored_classes: Benchmark -> class -> prompts of the user's own benchmarks that `stored` was made with; a
            threshold of other prompts is not scored.

    Attributes:
        calibration: What was made, or `stored`; None where images or prompts do not allow it.
        final_metrics: The scores by logged name.
    """

    def __init__(
        self,
        stored: Calibration | None = None,
        create: bool = True,
        stored_classes: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    ) -> None:
        self.stored = stored
        self.stored_classes = stored_classes or {}
        self.create = create
        self.calibration: Calibration | None = None
        self.final_metrics: dict[str, float] = {}

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.final_metrics, self.calibration = {}, None
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        planes = next((one for one in callbacks if isinstance(one, PlaneEvaluation)), None)
        biometry = next((one for one in callbacks if isinstance(one, BiometryEvaluation)), None)
        if planes is None or biometry is None:
            return
        prompts = {**planes.protocol.content(), "biometry": list(biometry.protocol.biometry)}
        module: Any = pl_module
        with evaluation_mode(module.student) as used:
            answers = _Answers(used, trainer.datamodule, planes, biometry)  # type: ignore[attr-defined]
            if self.create:
                self.calibration = answers.calibrate(prompts)
            elif self.stored is not None and self.stored.prompts == prompts:
                own = {name: dict(BENCHMARKS[name].classes) for name in planes.benchmarks}
                below = {
                    name: threshold
                    for name, threshold in self.stored.none_below.items()
                    if own.get(name, {}) == self.stored_classes.get(name, {})
                }
                self.calibration = replace(self.stored, none_below=below)
            if self.calibration is None:
                return
            self.final_metrics = answers.score(self.calibration)
        pl_module.log_dict(self.final_metrics, sync_dist=True)


class _Answers:
    """Scores of one model's answers on the images of a data module."""

    def __init__(
        self, model: DualEncoder, data: Any, planes: PlaneEvaluation, biometry: BiometryEvaluation
    ) -> None:
        self.model, self.data, self.planes, self.biometry = model, data, planes, biometry

    def calibrate(self, prompts: dict[str, Any]) -> Calibration | None:
        none_below: dict[str, float] = {}
        counts: dict[str, Any] = {}
        drop: float | None = None
        for benchmark in self.planes.benchmarks:
            known, other = self.margins(benchmark, "val")
            if min(len(known), len(other)) >= LEAST:
                none_below[benchmark] = rejection_threshold(known, other)
                counts[benchmark] = {"known": len(known), "other": len(other)}
        if self.heads("val"):
            records, similarity, true = self.profiles("val")
            drops = pd.Series(age_similarity_gap(similarity, AGES, true))
            by_patient = drops.groupby([record.patient for record in records]).max()
            drop = conformal_quantile(by_patient, COVERAGE)
            counts["patients"] = len(by_patient)
        if not none_below and drop is None:
            return None
        return Calibration(prompts, none_below, drop, COVERAGE, counts)

    def score(self, calibration: Calibration) -> dict[str, float]:
        """Return the scores by logged name, of the test patients: `all` would include those of the calibration."""
        found: dict[str, float] = {}
        for benchmark, threshold in calibration.none_below.items():
            if benchmark in self.planes.benchmarks:
                known, other = self.margins(benchmark, "test")
                if len(other):
                    scores = rejection_scores(known, other, threshold) | {"other": float(len(other))}
                    for key, value in scores.items():
                        found[final_name(STUDENT, NONE_OF_THESE, f"{benchmark}_{key}")] = value
        if calibration.age_drop is not None and self.biometry.benchmarks:
            _, similarity, true = self.profiles("test")
            low, high = profile_interval(similarity, AGES, calibration.age_drop)
            inside = (low <= np.clip(true, AGES[0], AGES[-1])) & (np.clip(true, AGES[0], AGES[-1]) <= high)
            ages = {
                "coverage": inside.mean(),
                "width_days": (high - low).mean(),
                "nominal": calibration.coverage,
            }
            found |= {final_name(STUDENT, AGE_INTERVAL, key): float(value) for key, value in ages.items()}
        return found

    def margins(self, benchmark: str, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return `max_minus_mean_logit` of images that a benchmark scores, and of those whose label it excludes."""
        one = BENCHMARKS[benchmark]
        images = self.data.candidates(benchmark, split)
        known = [record for record in images if one.includes(record)]
        other = [r for r in images if r.corpus == one.corpus and one.label_of(r) in one.exclude]
        if not known or not other:
            return np.empty(0), np.empty(0)
        vectors = class_embeddings(self.model, self.planes.prompts_of(benchmark)).cpu()
        margin = max_minus_mean_logit(class_logits(self.embedded([*known, *other]), vectors).numpy())
        return margin[: len(known)], margin[len(known) :]

    def profiles(self, split: str) -> tuple[list[Record], NDArray[Any], NDArray[Any]]:
        """Return `heads`, their similarity with each age [N, 175], and their ages in days [N]."""
        records = self.heads(split)
        spacings = [printed_spacing(record, self.model.preprocessing) for record in records]
        table = self.biometry.table(self.model, spacings)
        similarity = table.similarity(self.embedded(records).to(table.vectors.device), spacings)
        return records, similarity.cpu().numpy(), np.array([one.ga_days for one in records], dtype=np.float64)

    def heads(self, split: str) -> list[Record]:
        """Return the heads of known age in a split: HC18's, else the first biometry benchmark's; [] without one."""
        names = self.biometry.benchmarks
        found = self.data.evaluation_records(HC18 if HC18 in names else names[0], "all") if names else []
        # A head beyond the chart has no age.
        return [one for one in found if split in ("all", one.split) and one.ga_days is not None]

    def embedded(self, records: list[Record]) -> torch.Tensor:
        images: torch.Tensor = embed(
            self.model, records, self.data.evaluation_batch_size, self.data.num_workers
        )["image"]
        return images
