"""Zero-shot gestational age on HC18 and its clinical validity."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.age_table_cache import AgeTableCache
from callbacks.evaluation_progress import progress_bar, with_progress
from callbacks.figures import growth_chart_figure
from callbacks.zero_shot_evaluation import (
    Details,
    ZeroShotEvaluation,
    check_order,
    metric_device,
    protocol_of,
)
from datamodules.captions import SPACING, render_spacing
from datamodules.record import Record
from metrics import BiometryValidity, gestational_age_weeks, within_chart
from metrics.biometry import (
    HIGHEST_HC_MM,
    LOWEST_HC_MM,
    constant_age_scores,
    in_reference_range,
    validity_score,
)
from metrics.names import CONSTANT, HC18, STUDENT, interval_names
from metrics.subgroups import RESAMPLES, age_band, subgroup_scores
from models import DualEncoder
from models.zero_shot import AgeTable, age_embeddings, encode_images

IMAGES_AT_ONCE = 64  # bounds the memory of images * 175 ages * D


class BiometryEvaluation(ZeroShotEvaluation):
    """Read the gestational age of each head and check it against the measured head circumference.

    Args:
        every_n_epochs: Epochs between two evaluations in training; the first and the last validation
            epoch always count.
        protocol: A protocol file (see `datamodules.protocol`); None for this project's wording. In Python it may be
            a `Protocol`; as a type that would make the command line take the file for settings.
        benchmarks: ``[hc18]`` to demand it, ``[]`` to score nothing; None for what the data module names.
        selection_split: Images of the validation epochs: "val", or "all" to select as the paper does.
        test_split: Images of the test: "test", or "all" to report on all images as the paper does.
        full_precision: Evaluate in float32 even when training runs in half precision; False runs the towers in
            the half precision of training, and compares in float32 all the same.
        random_seed: Seed of the random-weights baseline.
        figures: Draw every tested model's ages over the growth chart.
        cache: Folder where tables of age embeddings are kept by weights and prompts (see `AgeTableCache`), for
            the teacher and for models that are only evaluated. None computes them every time.
        most_prompts: The first templates alone, for a quick run; null takes all.

    Raises:
        ValueError: An option is out of range, or the protocol file is malformed.
    """

    KNOWN = (HC18,)

    def __init__(
        self,
        every_n_epochs: int = 1,
        protocol: str | None = None,
        benchmarks: list[str] | None = None,
        selection_split: str = "val",
        test_split: str = "test",
        full_precision: bool = True,
        random_seed: int = 0,
        figures: bool = True,
        cache: str | None = None,
        most_prompts: int | None = None,
    ) -> None:
        super().__init__(
            protocol_of(protocol),
            every_n_epochs,
            benchmarks,
            selection_split,
            test_split,
            full_precision,
            random_seed,
            figures,
            most_prompts,
        )
        self.cache = None if cache is None else AgeTableCache(cache)
        self.training = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out what the data has, and whether weights are about to change."""
        super().setup(trainer, pl_module, stage)
        self.training = stage == TrainerFn.FITTING

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the models and, on the same heads, the best constant age."""
        super().on_test_epoch_end(trainer, pl_module)
        if self.benchmarks:
            hc_mm = [sample["hc_mm"] for sample in self.results[STUDENT][HC18]["samples"]]
            scores = constant_age_scores(hc_mm) | {"n_scored": len(hc_mm), "split": self.test_split}
            self.results[CONSTANT] = {HC18: scores}
            self.log_final(pl_module, CONSTANT)

    def require(self, records: list[Record], benchmark: str) -> None:
        """Look whether every head is measured; see the base class."""
        lacking = [record.name for record in records if record.hc_mm is None or record.pixel_size_mm is None]
        if lacking:
            raise ValueError(f"benchmark {benchmark}: no head circumference or pixel size for {lacking[:3]}")

    def score(self, model: DualEncoder, loader: DataLoader, records: list[Record], benchmark: str) -> Details:
        """Score one model; see the base class."""
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
            # A student in training has other weights every time: its tables would only fill the disk.
            changing = self.training and any(p.requires_grad for p in model.parameters())
            if self.cache is None or changing:
                return age_embeddings(model, self.protocol.biometry, spacings, progress=progress)
            return self.cache.get(model, self.protocol.biometry, spacings, progress)

    def doubt(self, records: list[Record], benchmark: str) -> str | None:
        """Say what few heads leave undefined; see the base class."""
        hc_mm = [record.hc_mm for record in records if record.hc_mm is not None]
        assessed = [hc for hc in hc_mm if in_reference_range(hc)]
        if not assessed:
            raise ValueError(
                f"{benchmark}: none of the {len(hc_mm)} heads to be scored has a circumference of "
                f"{LOWEST_HC_MM:g}-{HIGHEST_HC_MM:g} mm (14 to 40 weeks), so validity is undefined; "
                "put other patients in that split"
            )
        if len(assessed) < 3 or len(set(assessed)) == 1:
            return (
                "the rank correlation of age and head circumference is undefined (reported as 0): "
                f"{len(assessed)} heads of 14 to 40 weeks with {len(set(assessed))} different circumferences"
            )
        return None

    def draw(self, details: Details, title: str) -> Figure:
        """Draw ages and head circumferences over the growth chart."""
        samples = details["samples"]
        low, high = (details[key] for key in interval_names("validity"))
        return growth_chart_figure(
            np.array([sample["age_days"] for sample in samples]),
            np.array([sample["hc_mm"] for sample in samples]),
            f"{title}: {details['valid']} of {details['total']} within the chart\n"
            f"validity {details['validity']:.1f} %, 95 % interval {low:.1f} to {high:.1f}",
        )


def _spacings(records: list[Record], batch: dict[str, Tensor], image_size: int) -> list[str]:
    sizes = zip(batch["width"].tolist(), batch["height"].tolist(), strict=True)
    return [
        render_spacing(
            SPACING, width=width, height=height, image_size=image_size, pixel_size_mm=record.pixel_size_mm
        )
        for record, (width, height) in zip(records, sizes, strict=True)
    ]


def _by_age(rows: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Score bands of the age at which the measured head circumference is the median."""
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
