"""Outcomes in rows of results, against counts made image by image."""

import json
from collections import Counter

import numpy as np
import pytest

from experiments.outcomes import contrast_outcomes, outcomes_of, patient_counts
from metrics.bootstrap import f1_of_confusion


@pytest.fixture
def classified():
    generator = np.random.default_rng(5)
    names = list("xyz")
    samples = [
        {"name": f"image {n}", "patient": f"p{generator.integers(6)}", "target": names[generator.integers(3)]}
        | {"prediction": names[generator.integers(3)]}
        for n in range(40)
    ]
    return {"classes": names, "samples": samples}


def test_counts_of_a_patient_are_those_of_its_images(classified):
    kept = json.loads(json.dumps(outcomes_of(classified)))
    counts = patient_counts(kept)
    for row, patient in enumerate(sorted({one["patient"] for one in classified["samples"]})):
        pairs = Counter(
            (one["target"], one["prediction"]) for one in classified["samples"] if one["patient"] == patient
        )
        expected = [[pairs[truth, guess] for guess in "xyz"] for truth in "xyz"]
        assert counts[row].tolist() == expected
    assert f1_of_confusion(counts.sum(axis=0)).shape == (3,)


def test_heads_that_are_not_assessed_are_left_out():
    samples = [
        {"name": n, "patient": p, "target": "HC", "assessed": counts, "correct": right}
        for n, p, counts, right in [("c", "2", True, False), ("a", "1", True, True), ("b", "2", True, True),
                                    ("d", "3", False, True)]
    ]  # fmt: skip
    kept = outcomes_of({"samples": samples})
    assert (kept["patients"], kept["correct"]) == ([1, 2], "110")
    assert patient_counts(kept).tolist() == [[1, 1], [1, 2]]


def test_outcomes_name_no_image_and_no_patient(classified):
    text = json.dumps(outcomes_of(classified))
    assert "image 0" not in text
    assert "p0" not in text


def test_the_digest_tells_other_images_and_other_truth(classified):
    first = outcomes_of(classified)["images"]
    shuffled = {**classified, "samples": classified["samples"][::-1]}
    for one in shuffled["samples"]:
        assert outcomes_of(shuffled)["images"] == first, "the order of scoring does not count"
        one["prediction"] = "x"
    shuffled["samples"][0]["target"] = "z" if shuffled["samples"][0]["target"] != "z" else "x"
    assert outcomes_of(shuffled)["images"] != first


def test_other_patients_or_classes_are_not_compared(classified):
    first = {1: outcomes_of(classified)}
    assert contrast_outcomes((1, first), (-1, first)).value == 0
    renamed = [{**one, "patient": f"another {one['patient']}"} for one in classified["samples"]]
    other_patients = outcomes_of({**classified, "samples": renamed})
    other_classes = outcomes_of({**classified, "classes": classified["classes"][::-1]})
    for other in (other_patients, other_classes):
        assert contrast_outcomes((1, first), (-1, {1: other})) is None
