"""Zero-shot classification of standard planes and of brain sub-planes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.special import softmax
from torch.utils.data import DataLoader

from callbacks.evaluation_progress import with_progress
from callbacks.figures import confusion_figure, reliability_figure
from callbacks.zero_shot_evaluation import (
    Details,
    ZeroShotEvaluation,
    check_order,
    metric_device,
    protocol_of,
)
from datamodules.record import Record
from metrics import ZeroShotClassification, classification_scores
from metrics.bootstrap import f1_interval
from metrics.calibration import calibration, cross_fitted_confidence
from metrics.names import PLANES, SUBPLANES, with_interval
from metrics.subgroups import RESAMPLES, subgroup_scores
from models import DualEncoder
from models.zero_shot import class_embeddings, class_logits, encode_images


class PlaneEvaluation(ZeroShotEvaluation):
    """Name the plane of each image with the most similar class vector.

    Args:
        every_n_epochs: Epochs between two evaluations in training; the first and the last validation
            epoch always count.
        protocol: A protocol file (see `datamodules.protocol`); None for this project's wording. In Python it may be
            a `Protocol`; as a type that would make the command line take the file for settings.
        planes_prompts: A file of class -> prompts that replaces the protocol's planes.
        subplanes_prompts: The same for its sub-planes.
        benchmarks: Some of ``planes`` and ``subplanes``, ``[]`` for neither; None for those that the data module
            names.
        selection_split: Images of the validation epochs: "val", or "all" to select as the paper does.
        test_split: Images of the test: "test", or "all" to report on all images as the paper does.
        full_precision: Evaluate in float32 even when training runs in half precision; False runs the towers in
            the half precision of training, and compares in float32 all the same.
        random_seed: Seed of the random-weights baseline.
        figures: Draw a confusion matrix of every tested model.
        most_prompts: The first prompts of each class alone, for a quick run; null takes all.

    Raises:
        ValueError: An option is out of range, or a prompt file is malformed.
    """

    KNOWN = (PLANES, SUBPLANES)

    def __init__(
        self,
        every_n_epochs: int = 1,
        protocol: str | None = None,
        planes_prompts: str | None = None,
        subplanes_prompts: str | None = None,
        benchmarks: list[str] | None = None,
        selection_split: str = "val",
        test_split: str = "test",
        full_precision: bool = True,
        random_seed: int = 0,
        figures: bool = True,
        most_prompts: int | None = None,
    ) -> None:
        super().__init__(
            protocol_of(protocol, planes=planes_prompts, subplanes=subplanes_prompts),
            every_n_epochs,
            benchmarks,
            selection_split,
            test_split,
            full_precision,
            random_seed,
            figures,
            most_prompts,
        )

    def require(self, records: list[Record], benchmark: str) -> None:
        """Look whether every class has prompts; see the base class."""
        lacking = sorted({str(name) for name in _truth(records, benchmark)} - set(self._prompts(benchmark)))
        if lacking:
            raise ValueError(f"benchmark {benchmark}: the protocol has no prompts for {lacking}")

    def _prompts(self, benchmark: str) -> dict[str, list[str]]:
        return self.protocol.planes if benchmark == PLANES else self.protocol.subplanes

    def score(self, model: DualEncoder, loader: DataLoader, records: list[Record], benchmark: str) -> Details:
        """Score one model on one benchmark; see the base class."""
        prompts = self._prompts(benchmark)
        number = {name: position for position, name in enumerate(prompts)}
        truth = _truth(records, benchmark)
        targets = torch.tensor([number[str(name)] for name in truth])
        vectors = class_embeddings(model, prompts)
        metric = ZeroShotClassification(list(prompts), interval=True).to(metric_device(model))
        for batch in with_progress(loader, f"{benchmark} images"):
            check_order(records, batch)
            logits = class_logits(encode_images(model, batch["image"].to(vectors.device)), vectors)
            metric.update(logits.cpu(), targets[batch["index"]], batch["index"])
        with metric.sync_context():
            rows = metric.rows()
        samples = _samples(rows, records, list(prompts))
        right = [row["correct"] for row in samples]
        reliability = calibration([row["probability"] for row in samples], right)
        fitted = cross_fitted_confidence(rows["logits"], rows["target"], [row["patient"] for row in samples])
        return metric.compute() | {
            "ece": reliability["ece"],
            **({} if fitted is None else {"ece_fitted": calibration(fitted, right)["ece"]}),
            "reliability": reliability["bins"],
            "subgroups": _subgroups(rows, records, list(prompts)),
            "n_scored": len(samples),
            "samples": samples,
        }

    def doubt(self, records: list[Record], benchmark: str) -> str | None:
        """Say what images of one class, or of one patient, leave undefined; see the base class."""
        classes = set(_truth(records, benchmark))
        if len(classes) == 1:
            return (
                f"all {len(records)} images are of the class {classes.pop()}: nothing is told apart, "
                "and the macro F1 is that of one class"
            )
        if len({record.patient for record in records}) == 1:
            return f"all {len(records)} images are of one patient: the calibration error after a fit is undefined"
        return None

    def draw(self, details: Details, title: str) -> Figure:
        """Draw the confusion matrix."""
        f1 = {name: row["f1"] for name, row in details["per_class"].items()}
        return confusion_figure(details["confusion_matrix"], details["classes"], f1, title)

    def draw_all(self, details: Details, title: str) -> dict[str, Figure]:
        """Draw the confusion matrix and the reliability of the probabilities."""
        reliability = reliability_figure(details["reliability"], details["ece"], title)
        return super().draw_all(details, title) | {"-reliability": reliability}


def _subgroups(
    rows: dict[str, np.ndarray], records: list[Record], classes: list[str]
) -> dict[str, dict[str, dict[str, float]]]:
    chosen = [records[index] for index in rows["index"]]

    def score(part: np.ndarray) -> dict[str, float]:
        logits, target = rows["logits"][part], rows["target"][part]
        scores = classification_scores(logits, target, classes)
        interval = f1_interval(target, logits.argmax(axis=1), len(classes), RESAMPLES)
        accuracies = {key: scores[key] for key in ("accuracy", "balanced_accuracy")}
        return with_interval("f1", scores["f1"], interval) | accuracies

    return {
        "machine": subgroup_scores([record.machine for record in chosen], score),
        "operator": subgroup_scores([record.operator for record in chosen], score),
    }


def _truth(records: list[Record], benchmark: str) -> list[str | None]:
    return [record.plane if benchmark == PLANES else record.brain_plane for record in records]


def _samples(rows: dict[str, np.ndarray], records: list[Record], classes: list[str]) -> list[dict[str, Any]]:
    probabilities = softmax(rows["logits"].astype(np.float64), axis=1)
    best = rows["logits"].argmax(axis=1)
    return [
        {
            "name": records[index].name,
            "patient": records[index].patient,
            "target": classes[target],
            "prediction": classes[guess],
            "probability": round(float(row[guess]), 6),
            "correct": bool(target == guess),
        }
        for index, target, guess, row in zip(rows["index"], rows["target"], best, probabilities, strict=True)
    ]
