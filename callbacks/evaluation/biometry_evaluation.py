"""Zero-shot gestational age on HC18 and its clinical validity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from callbacks.evaluation.input_ablations import Inputs, ablated_inputs
from callbacks.evaluation.zero_shot_evaluation import Details, ZeroShotEvaluation
from callbacks.tracking.console import progress_bar
from datamodules.evaluation.dataset import printed_spacing
from datamodules.record import Record, further_groups
from figures.growth_chart import Chart, growth_chart_figure
from metrics import gestational_age_weeks, predicted_age_days, within_chart
from metrics.biometry import (
    AGES_DAYS,
    HIGHEST_HC_MM,
    LOWEST_HC_MM,
    ages_by_pixel_size,
    best_constant_age,
    biometry_scores,
    in_reference_range,
    validity_score,
)
from metrics.growth_chart import LOWER, MEDIAN, UPPER, head_circumference_mm
from metrics.names import CONSTANT, PIXEL_SIZE, STUDENT, interval_names
from metrics.subgroups import RESAMPLES, age_band, subgroup_scores, thirds
from models import DualEncoder
from models.age_table_cache import stored_age_embeddings
from models.zero_shot import AgeTable


class BiometryEvaluation(ZeroShotEvaluation):
    """Zero-shot gestational age of fetal heads, checked against the measured head circumference.

    Args:
        protocol: Prompt file (see `datamodules.evaluation.protocol`); None for the default prompts. In Python it may be
            a `Protocol`; with that type the command line would parse the file as settings.
        cache: Folder of the disk cache of age embeddings (see
            `models.age_table_cache`), for the teacher and for models that are not being trained. None: no cache.
        **kwargs: See `ZeroShotEvaluation`.
    """

    KIND = "biometry"

    def __init__(self, protocol: str | None = None, cache: str | None = None, **kwargs: Any) -> None:
        super().__init__(protocol=protocol, **kwargs)
        self.cache = cache
        self.training = False
        # The tested student, its spacings and their table, until the end of the test: other callbacks ask again.
        self._tested: tuple[DualEncoder, list[str], AgeTable] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.training = stage == TrainerFn.FITTING

    def score(self, model: DualEncoder, images: Tensor, records: list[Record], benchmark: str) -> Details:
        """Score one model; the tested student also with ablated inputs."""
        hc_mm = np.array([record.hc_mm for record in records], dtype=np.float64)
        spacings = [printed_spacing(record, model.preprocessing) for record in records]
        table = self.table(model, spacings)
        inputs = Inputs(images.to(table.vectors.device), spacings)
        # Not in validation: an ablation explains a final score and selects nothing.
        ablated = ablated_inputs(model, inputs, records) if self.tested == STUDENT else {}

        def predict(inputs: Inputs) -> NDArray[Any]:
            ages = predicted_age_days(table.similarity(inputs.images, inputs.spacings).cpu())
            return np.asarray(ages.numpy())

        age_days = predict(inputs)
        samples = _samples(age_days, hc_mm, records)
        found = biometry_scores(age_days, hc_mm, patients=[record.patient for record in records])
        for name, changed in ablated.items():
            scores = biometry_scores(predict(changed), hc_mm, RESAMPLES)
            found |= {f"{name}_{key}": scores[key] for key in ("validity", *interval_names("validity"))}
        return found | {
            "subgroups": _subgroups(age_days, hc_mm, records),
            "n_scored": len(samples),
            "samples": samples,
        }

    def baselines(self, fitted_on: list[Record], records: list[Record], benchmark: str) -> dict[str, Details]:
        """Score the best constant age and the ages that pixel sizes alone give, both of the training patients."""
        fitted_on = [record for record in fitted_on if record.pixel_size_mm is not None]
        fit_hc, hc_mm = (np.array([record.hc_mm for record in part]) for part in (fitted_on, records))
        fit_mm, size_mm = (
            np.array([record.pixel_size_mm for record in part]) for part in (fitted_on, records)
        )
        if not in_reference_range(fit_hc).any():
            raise ValueError(f"none of the {len(fit_hc)} training heads is of 14 to 40 weeks")
        age, patients = best_constant_age(fit_hc), [record.patient for record in records]
        ages = {CONSTANT: np.full(len(records), age), PIXEL_SIZE: ages_by_pixel_size(fit_mm, fit_hc, size_mm)}
        found = {name: biometry_scores(days, hc_mm, patients=patients) for name, days in ages.items()}
        found[CONSTANT]["age_days"] = age
        return found

    def table(self, model: DualEncoder, spacings: list[str]) -> AgeTable:
        """Return the age embeddings of these spacings: the tested student's own, or from the disk where it is used."""
        distinct = sorted(set(spacings))
        if self._tested is not None and self._tested[0] is model and self._tested[1] == distinct:
            return self._tested[2]
        with progress_bar("age prompts", " prompts") as progress:
            # The weights of a student in training change every time: its tables would only fill the disk.
            changing = self.training and any(p.requires_grad for p in model.parameters())
            folder = None if changing else self.cache
            table = stored_age_embeddings(folder, model, self.protocol.biometry, distinct, progress)
        if self.tested == STUDENT:
            self._tested = model, distinct, table
        return table

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tested = None  # training may go on

    def undefined_score(self, records: list[Record], benchmark: str) -> str | None:
        """Return what too few heads leave undefined."""
        missing = [record.name for record in records if record.hc_mm is None or record.pixel_size_mm is None]
        if missing:
            raise ValueError(f"benchmark {benchmark}: no head circumference or pixel size for {missing[:3]}")
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


def _subgroups(
    age_days: NDArray[Any], hc_mm: NDArray[Any], records: list[Record]
) -> dict[str, dict[str, dict[str, float]]]:
    """Score by age (that whose median is the measured head circumference), head size and further columns."""
    assessed = in_reference_range(hc_mm)
    heads = hc_mm[assessed]
    valid = within_chart(heads, age_days[assessed] / 7)
    groups: dict[str, Sequence[str | None]] = {
        "gestational age": [age_band(weeks) for weeks in gestational_age_weeks(heads)],
        "third of head circumference": thirds(heads, "mm"),
        **further_groups([record for record, counts in zip(records, assessed, strict=True) if counts]),
    }

    def score(part: NDArray[Any]) -> dict[str, float]:
        return validity_score(valid[part], RESAMPLES)

    return {kind: subgroup_scores(names, score) for kind, names in groups.items()}


def _samples(age_days: NDArray[Any], hc_mm: NDArray[Any], records: list[Record]) -> list[dict[str, Any]]:
    valid, assessed = within_chart(hc_mm, age_days / 7), in_reference_range(hc_mm)
    return [
        {
            "name": record.name,
            "patient": record.patient,
            "hc_mm": float(hc),
            "age_days": int(age),
            "target": f"HC {hc:.1f} mm",
            "prediction": f"{age // 7} w {age % 7} d",
            "assessed": bool(counts),
            "correct": bool(right),
        }
        for record, hc, age, counts, right in zip(records, hc_mm, age_days, assessed, valid, strict=True)
    ]
