"""The baselines compute the same results as ours."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import image_pipeline
from benchmarks._material import head_records, published_student, published_teacher
from benchmarks.baselines import evaluation_authors
from benchmarks.baselines.pipeline_authors import Draw
from benchmarks.hc18_validity import DISTINCT, IMAGES, count_spacings
from benchmarks.image_pipeline import STUDENT, TEACHER, grey_difference
from datamodules.corpora.hc18 import HC18_TABLE
from datamodules.pairs.image_reading import read_image
from datamodules.pairs.transforms import EvaluationTransform
from models.zero_shot import encode_prompts

PROMPTS = ["fetal head at 24 weeks", "fetal head at 24 weeks and 3 days, pixel spacing 0.12 mm"]


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    os.environ.pop("HC18_ROOT", None)
    return head_records(tmp_path_factory.mktemp("heads"), 3)[0]


@pytest.mark.parametrize("make", [published_student, published_teacher])
def test_prompts_have_the_same_embeddings(make):
    model = make(quick=True)
    with torch.no_grad():
        theirs = evaluation_authors.encode_prompts(model, PROMPTS)
    torch.testing.assert_close(encode_prompts(model, PROMPTS), theirs, rtol=0, atol=2e-6)


def test_evaluation_images_are_the_same_pixels(heads):
    for record in heads:
        ours = EvaluationTransform(STUDENT)(read_image(record.image))
        torch.testing.assert_close(
            evaluation_authors.load_image(str(record.image), STUDENT), ours, rtol=0, atol=1e-5
        )


DRAWS = [Draw(0.0, (0.0, 0.0), 0.0, 0.0), Draw(5.0, (0.03, -0.03), 0.15, -0.15)]


@pytest.mark.parametrize("draw", DRAWS)
def test_training_views_of_one_draw_are_close(heads, draw):
    for record in heads:
        assert grey_difference(record.image, draw) <= 2.5


def test_the_grey_difference_detects_a_wrong_draw(heads, monkeypatch):
    right = image_pipeline.view
    draw = DRAWS[1]
    for wrong in (
        replace(draw, rotation=-draw.rotation),
        replace(draw, shift=(-draw.shift[0], draw.shift[1])),
        replace(draw, brightness=-draw.brightness),
    ):
        monkeypatch.setattr(
            image_pipeline, "view", lambda image, contract, _, wrong=wrong: right(image, contract, wrong)
        )
        assert np.mean([grey_difference(record.image, draw) for record in heads]) > 2.5


@pytest.mark.parametrize("view", [STUDENT, TEACHER])
def test_the_counts_of_spacings_equal_the_real_table(hc18_root, monkeypatch, view):
    rows = len((hc18_root / HC18_TABLE).read_text().splitlines()) - 1
    if rows != IMAGES:
        pytest.skip(f"{hc18_root / HC18_TABLE} has {rows} of {IMAGES} rows")
    monkeypatch.setenv("HC18_ROOT", str(hc18_root))
    assert count_spacings(view.image_size) == DISTINCT[view.image_size]
