"""Zero-shot gestational age on HC18 and its clinical validity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.evaluation.age_table_cache import AgeTableCache
from callbacks.evaluation.zero_shot_evaluation import Details, ZeroShotEvaluation, check_order, metric_device
from callbacks.tracking.console import progress_bar, with_progress
from datamodules.pairs.captions import SPACING, render_spacing
from datamodules.record import Record
from figures.growth_chart import Chart, growth_chart_figure
from metrics import BiometryValidity, gestational_age_weeks, within_chart
from metrics.biometry import (
    AGES_DAYS,
    HIGHEST_HC_MM,
    LOWEST_HC_MM,
    constant_age_scores,
    in_reference_range,
    validity_score,
)
from metrics.growth_chart import LOWER, MEDIAN, UPPER, head_circumference_mm
from metrics.names import CONSTANT, STUDENT, interval_names
from metrics.subgroups import RESAMPLES, age_band, subgroup_scores
from models import DualEncoder
from models.zero_shot import AgeTable, age_embeddings, encode_images

IMAGES_AT_ONCE = 64  # bounds the memory of images * 175 ages * D


class BiometryEvaluation(ZeroShotEvaluation):
    """Zero-shot gestational age of fetal heads, checked against the measured head circumference.

    Args:
        protocol: Prompt file (see `datamodules.evaluation.protocol`); None for the default prompts. In Python it may be
            a `Protocol`; with that type the command line would parse the file as settings.
        cache: Folder of the disk cache of age embeddings (see `AgeTableCache`), for the teacher and for models that
            are not being trained. None computes them every time.
        **kwargs: See `ZeroShotEvaluation`.
    """

    KIND = "biometry"

    def __init__(self, protocol: str | None = None, cache: str | None = None, **kwargs: Any) -> None:
        super().__init__(protocol=protocol, **kwargs)
        self.cache = None if cache is None else AgeTableCache(cache)
        self.training = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the benchmarks of the data, and whether the student is being trained."""
        super().setup(trainer, pl_module, stage)
        self.training = stage == TrainerFn.FITTING

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the models and, on the same heads, the best constant age."""
        super().on_test_epoch_end(trainer, pl_module)
        for benchmark in self.benchmarks:
            hc_mm = [sample["hc_mm"] for sample in self.results[STUDENT][benchmark]["samples"]]
            scores = constant_age_scores(hc_mm) | {"n_scored": len(hc_mm), "split": self.test_split}
            self.results.setdefault(CONSTANT, {})[benchmark] = scores
        if self.benchmarks:
            self.log_final(pl_module, CONSTANT)

    def score(self, model: DualEncoder, loader: DataLoader, records: list[Record], benchmark: str) -> Details:
        """Score one model."""
        # From the records, not from the batch: float32 could change the second decimal of a spacing.
        hc_mm = torch.tensor([record.hc_mm for record in records], dtype=torch.float64)
        device = next(model.parameters()).device
        images, indices, spacings = [torch.empty(0, model.embed_dim, device=device)], [], []
        for batch in with_progress(loader, f"{benchmark} images"):
            spacings += _spacings(check_order(records, batch), batch, model.preprocessing.image_size)
            images.append(encode_images(model, batch["image"].to(device)))
            indices += batch["index"].tolist()
        metric = BiometryValidity().to(metric_device(model))
        if indices:
            table = self._table(model, spacings)
            embedded, index = torch.cat(images), torch.tensor(indices)
            for rows in torch.arange(len(index)).split(IMAGES_AT_ONCE):
                printed = [spacings[row] for row in rows.tolist()]
                similarity = table.similarity(embedded[rows.to(device)], printed)
                metric.update(similarity.cpu(), hc_mm[index[rows]], index[rows])
        with metric.sync_context():
            predicted = metric.rows()
        samples = _samples(predicted, records)
        return metric.compute() | {
            "subgroups": {"gestational age": _by_age(predicted)},
            "n_scored": len(samples),
            "samples": samples,
        }

    def _table(self, model: DualEncoder, spacings: list[str]) -> AgeTable:
        with progress_bar("age prompts", " prompts") as progress:
            # The weights of a student in training change every time: its tables would only fill the disk.
            changing = self.training and any(p.requires_grad for p in model.parameters())
            if self.cache is None or changing:
                return age_embeddings(model, self.protocol.biometry, spacings, progress=progress)
            return self.cache.get(model, self.protocol.biometry, spacings, progress)

    def doubt(self, records: list[Record], benchmark: str) -> str | None:
        """Return what too few heads leave undefined."""
        lacking = [record.name for record in records if record.hc_mm is None or record.pixel_size_mm is None]
        if lacking:
            raise ValueError(f"benchmark {benchmark}: no head circumference or pixel size for {lacking[:3]}")
        hc_mm = [record.hc_mm for record in records if record.hc_mm is not None]
        assessed = [hc for hc in hc_mm if in_reference_range(hc)]
        if not assessed:
            raise ValueError(
                f"{benchmark}: none of the {len(hc_mm)} heads has a circumference of "
                f"{LOWEST_HC_MM:g}-{HIGHEST_HC_MM:g} mm (14 to 40 weeks), so validity is undefined; "
                "put other patients into that split"
            )
        if len(assessed) < 3 or len(set(assessed)) == 1:
            return (
                "the rank correlation of age and head circumference is undefined (reported as 0): "
                f"{len(assessed)} heads of 14 to 40 weeks with {len(set(assessed))} different circumferences"
            )
        return None

    def draw(self, details: Details, title: str) -> Figure:
        """Draw ages and head circumferences over the growth chart."""
        low, high = (details[key] for key in interval_names("validity"))
        return draw_ages(
            details["samples"],
            f"{title}\n{details['valid']} of {details['total']} valid: {details['validity']:.1f} % "
            f"[{low:.1f}, {high:.1f}]",
        )


def draw_ages(samples: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw predicted ages and measured heads (``age_days``, ``hc_mm``, ``assessed``) over the WHO chart."""
    weeks = np.linspace(13, 40, 109)
    low, median, high = (head_circumference_mm(weeks, centile) for centile in (LOWER, MEDIAN, UPPER))
    offered = AGES_DAYS[0] / 7, AGES_DAYS[-1] / 7
    chart = Chart(weeks, low, median, high, (LOWEST_HC_MM, HIGHEST_HC_MM), offered)
    ages = np.array([row["age_days"] for row in samples]) / 7
    hc_mm = np.array([row["hc_mm"] for row in samples])
    assessed = np.array([row["assessed"] for row in samples])
    return growth_chart_figure(chart, ages, hc_mm, assessed, within_chart(hc_mm, ages), title)


def _spacings(records: list[Record], batch: dict[str, Tensor], image_size: int) -> list[str]:
    sizes = zip(batch["width"].tolist(), batch["height"].tolist(), strict=True)
    return [
        render_spacing(
            SPACING, width=width, height=height, image_size=image_size, pixel_size_mm=record.pixel_size_mm
        )
        for record, (width, height) in zip(records, sizes, strict=True)
    ]


def _by_age(rows: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Score by bands of gestational age, that whose median is the measured head circumference."""
    assessed = in_reference_range(rows["hc_mm"])
    hc_mm, age_days = rows["hc_mm"][assessed], rows["age_days"][assessed]
    valid = within_chart(hc_mm, age_days / 7)
    bands = [age_band(weeks) for weeks in gestational_age_weeks(hc_mm)]

    def score(part: np.ndarray) -> dict[str, float]:
        return validity_score(valid[part], RESAMPLES)

    return subgroup_scores(bands, score)


def _samples(rows: dict[str, np.ndarray], records: list[Record]) -> list[dict[str, Any]]:
    valid = within_chart(rows["hc_mm"], rows["age_days"] / 7)
    assessed = in_reference_range(rows["hc_mm"])
    return [
        {
            "name": records[index].name,
            "patient": records[index].patient,
            "hc_mm": float(hc),
            "age_days": int(age),
            "target": f"HC {hc:.1f} mm",
            "prediction": f"{age // 7} w {age % 7} d",
            "assessed": bool(counts),
            "correct": bool(right),
        }
        for index, hc, age, counts, right in zip(
            rows["index"], rows["hc_mm"], rows["age_days"], assessed, valid, strict=True
        )
    ]
