"""Outcomes of single images in the form that rows of results keep: compact, without names of images and patients."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrics.bootstrap import Comparison, contrast
from models.files import digest

Outcomes = dict[str, Any]
BY_SEED = Mapping[int, Outcomes]
FIRST = ord("A")


def outcomes_of(details: Mapping[str, Any]) -> Outcomes:
    """Return the outcomes of one evaluation, image by image, ordered by patient and name.

    Args:
        details: Details of a benchmark as results.json has them; images that are not assessed are left out.

    Returns:
        ``images``, a digest of names, patients and truths; ``patients``, the number of images of each patient; and a
        text with a character an image: ``correct`` of 0 and 1, for a classification ``target`` and ``prediction``
        instead, in which the letter A stands for the first of ``classes``, B for the second.
    """
    samples = [sample for sample in details["samples"] if sample.get("assessed", True)]
    samples.sort(key=lambda sample: (str(sample["patient"]), str(sample["name"])))
    found: Outcomes = {
        "images": digest([[str(one[key]) for key in ("name", "patient", "target")] for one in samples]),
        "patients": [len([*images]) for _, images in groupby(samples, key=lambda one: str(one["patient"]))],
    }
    if "classes" not in details:
        return found | {"correct": "".join(str(int(one["correct"])) for one in samples)}
    classes = [*details["classes"]]
    letters = {name: chr(FIRST + number) for number, name in enumerate(classes)}
    texts = {key: "".join(letters[one[key]] for one in samples) for key in ("target", "prediction")}
    return found | {"classes": classes} | texts


def patient_counts(outcomes: Outcomes) -> NDArray[np.int64]:
    """Return the counts of each patient: confusions [P, C, C], rows true, or right and all images [P, 2]."""
    patients = np.repeat(np.arange(len(outcomes["patients"])), outcomes["patients"])
    if "correct" in outcomes:
        right = np.array([*outcomes["correct"]]) == "1"
        counted = [np.bincount(patients[right], minlength=len(outcomes["patients"])), outcomes["patients"]]
        return np.stack(counted, axis=-1).astype(np.int64)
    size = len(outcomes["classes"])
    target, prediction = (
        np.array([ord(letter) - FIRST for letter in outcomes[key]], dtype=np.int64)
        for key in ("target", "prediction")
    )
    counts = np.zeros((len(outcomes["patients"]), size, size), dtype=np.int64)
    np.add.at(counts, (patients, target, prediction), 1)
    return counts


def contrast_outcomes(*terms: tuple[float, BY_SEED]) -> Comparison | None:
    """Return a sum of scores, each times a factor, over the seeds that all terms share; see `metrics.bootstrap`.

    None where they share no seed, or where images or classes differ.
    """
    seeds = sorted(set.intersection(*(set(outcomes) for _, outcomes in terms)))
    found = [[outcomes[seed] for seed in seeds] for _, outcomes in terms]
    scored = {(one["images"], tuple(one.get("classes", ()))) for method in found for one in method}
    if len(scored) != 1:
        return None
    counts = [np.stack([patient_counts(one) for one in method]) for method in found]
    return contrast([(factor, one) for (factor, _), one in zip(terms, counts, strict=True)])
