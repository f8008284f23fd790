"""Zero-shot classification of standard planes and brain sub-planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from callbacks.evaluation.zero_shot_evaluation import Details, ZeroShotEvaluation
from datamodules.record import Record, further_groups
from figures.confusion import confusion_figure
from figures.reliability import reliability_figure
from metrics import classification_scores
from metrics.benchmarks import BENCHMARKS
from metrics.bootstrap import f1_interval
from metrics.calibration import cross_fitted_confidence, reliability
from metrics.names import CONSTANT, interval_names, with_interval
from metrics.subgroups import RESAMPLES, subgroup_scores
from models import DualEncoder
from models.zero_shot import class_embeddings, class_logits


class PlaneEvaluation(ZeroShotEvaluation):
    """Zero-shot classification: predict the class whose prompts are most similar to the image.

    Args:
        protocol: As for `BiometryEvaluation`.
        **kwargs: See `ZeroShotEvaluation`.
    """

    KIND = "classification"

    def __init__(self, protocol: str | None = None, **kwargs: Any) -> None:
        super().__init__(protocol=protocol, **kwargs)

    def prompts_of(self, benchmark: str) -> Mapping[str, Sequence[str]]:
        """Return the prompts that a benchmark's classes are scored with."""
        prompts = self.protocol.prompts_of(BENCHMARKS[benchmark])
        return {name: texts[: self.most_prompts] for name, texts in prompts.items()}

    def score(self, model: DualEncoder, images: Tensor, records: list[Record], benchmark: str) -> Details:
        prompts = self.prompts_of(benchmark)
        classes = list(prompts)
        target = np.array([classes.index(name) for name in _truth(records, benchmark)])
        every = class_logits(images, class_embeddings(model, prompts).cpu()).numpy()
        samples = _samples(every, target, records, classes)
        right = [row["correct"] for row in samples]
        patients = [row["patient"] for row in samples]
        over_patients = f1_interval(target, every.argmax(axis=1), len(classes), patients=patients)
        curve = reliability([row["probability"] for row in samples], right)
        fitted = cross_fitted_confidence(every, target, patients)
        return classification_scores(every, target, classes, interval=True) | {
            **dict(zip(interval_names("f1", patients=True), over_patients, strict=True)),
            "ece": curve["ece"],
            **({} if fitted is None else {"ece_fitted": reliability(fitted, right)["ece"]}),
            "reliability": curve["bins"],
            "subgroups": _subgroups(every, target, records, classes),
            "n_scored": len(samples),
            "samples": samples,
        }

    def baselines(self, fitted_on: list[Record], records: list[Record], benchmark: str) -> dict[str, Details]:
        """Score the training patients' most frequent class as the answer for every image."""
        classes, counts = np.unique(_truth(fitted_on, benchmark), return_counts=True)
        majority = str(classes[counts.argmax()])
        truth, patients = _truth(records, benchmark), [record.patient for record in records]
        names = sorted({*truth, majority})
        target = np.array([names.index(name) for name in truth])
        answer = np.full(len(truth), names.index(majority))
        one_hot = np.eye(len(names))[answer]
        f1 = classification_scores(one_hot, target, names)["f1"]
        intervals = [f1_interval(target, answer, len(names), patients=who) for who in (None, patients)]
        return {CONSTANT: {"class": majority, **with_interval("f1", f1, *intervals)}}

    def undefined_score(self, records: list[Record], benchmark: str) -> str | None:
        """Return what images of a single class or patient leave undefined."""
        classes = set(_truth(records, benchmark))
        missing = sorted(classes - set(self.prompts_of(benchmark)))
        if missing:
            raise ValueError(
                f"benchmark {benchmark}: the prompt file has no prompts for {missing}, labels of the images "
                f"({next(r.name for r in records if BENCHMARKS[benchmark].label_of(r) in missing)} is one); add them, "
                "or leave the labels out with exclude"
            )
        if len(classes) == 1:
            return (
                f"all {len(records)} images are of the class {classes.pop()}: "
                "the macro F1 is that of a single class"
            )
        if len({record.patient for record in records}) == 1:
            return f"all {len(records)} images are of one patient: the fitted calibration error is undefined"
        return None

    def draw(self, details: Details, title: str) -> Figure:
        f1 = {name: row["f1"] for name, row in details["per_class"].items()}
        title = f"{title}\nn = {details['n_scored']}, macro F1 {details['f1']:.3f}"
        return confusion_figure(details["confusion_matrix"], details["classes"], title, f1)

    def draw_all(self, details: Details, title: str) -> dict[str, Figure]:
        """Draw the confusion matrix and the reliability diagram."""
        title_with_error = f"{title}\nexpected calibration error {details['ece']:.3f}"
        figure = reliability_figure({"predictions": details["reliability"]}, title_with_error)
        return super().draw_all(details, title) | {"-reliability": figure}


def _subgroups(
    logits: NDArray[Any], target: NDArray[Any], records: list[Record], classes: list[str]
) -> dict[str, dict[str, dict[str, float]]]:
    def score(part: NDArray[Any]) -> dict[str, float]:
        scores = classification_scores(logits[part], target[part], classes)
        interval = f1_interval(target[part], logits[part].argmax(axis=1), len(classes), RESAMPLES)
        accuracies = {key: scores[key] for key in ("accuracy", "balanced_accuracy")}
        return with_interval("f1", scores["f1"], interval) | accuracies

    return {
        "machine": subgroup_scores([record.machine for record in records], score),
        "operator": subgroup_scores([record.operator for record in records], score),
        **{name: subgroup_scores(groups, score) for name, groups in further_groups(records).items()},
    }


def _truth(records: list[Record], benchmark: str) -> list[str]:
    return [str(BENCHMARKS[benchmark].label_of(record)) for record in records]


def _samples(
    logits: NDArray[Any], target: NDArray[Any], records: list[Record], classes: list[str]
) -> list[dict[str, Any]]:
    probabilities = softmax(logits.astype(np.float64), axis=1)
    return [
        {
            "name": record.name,
            "patient": record.patient,
            "target": classes[true],
            "prediction": classes[guess],
            "probability": round(float(row[guess]), 6),
            "correct": bool(true == guess),
        }
        for record, true, guess, row in zip(
            records, target, logits.argmax(axis=1), probabilities, strict=True
        )
    ]
