"""The baselines compute the same results as ours."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import _authors
from benchmarks._authors import Draw
from benchmarks._material import FRAME, STUDENT, TEACHER, head_records, published
from benchmarks.hc18_validity import DISTINCT, IMAGES
from benchmarks.image_pipeline import STUDENT as STUDENT_VIEW
from benchmarks.image_pipeline import TEACHER as TEACHER_VIEW
from datamodules.corpora.hc18 import read_hc18
from datamodules.pairs.captions import SPACING, render_spacing
from datamodules.pairs.image_reading import read_image
from datamodules.pairs.transforms import Augmentation, TwoViewTransform, normalise
from models.preprocessing import resize_padded
from models.zero_shot import encode_prompts

PROMPTS = ["fetal head at 24 weeks", "fetal head at 24 weeks and 3 days, pixel spacing 0.12 mm"]
DRAWS = [Draw(0.0, (0.0, 0.0), 0.0, 0.0), Draw(5.0, (0.03, -0.03), 0.15, -0.15)]


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HC18_ROOT", raising=False)
        return [record.image for record in head_records(tmp_path_factory.mktemp("heads"), 3)[0]]


@pytest.mark.parametrize("name", [STUDENT, TEACHER])
def test_prompts_have_the_same_embeddings(name):
    model = published(name, quick=True)
    with torch.no_grad():
        theirs = _authors.encode_prompts(model, PROMPTS)
    torch.testing.assert_close(encode_prompts(model, PROMPTS), theirs, rtol=0, atol=2e-6)


def test_evaluation_images_are_the_same_pixels(heads):
    for path in heads:
        ours = normalise(resize_padded(read_image(path), STUDENT_VIEW), STUDENT_VIEW)
        theirs = _authors.load_image(str(path), STUDENT_VIEW)
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def grey_difference(path, ours, theirs):
    """Return the mean difference in grey levels between our two views of one draw and the baseline's of another."""
    transform = TwoViewTransform(STUDENT_VIEW, TEACHER_VIEW, Augmentation())
    affine, jitter = transform._augment.transforms
    affine.rotate = (-ours.rotation, -ours.rotation)  # torchvision rotates in the other direction
    affine.translate_percent = {axis: (shift, shift) for axis, shift in zip("xy", ours.shift, strict=True)}
    jitter.brightness = (1 + ours.brightness, 1 + ours.brightness)
    jitter.contrast = (1 + ours.contrast, 1 + ours.contrast)
    contracts = STUDENT_VIEW, TEACHER_VIEW
    views = transform(read_image(path), np.random.default_rng(0)), _authors.two_views(path, contracts, theirs)
    stds = [torch.tensor(contract.std)[:, None, None] for contract in contracts]
    return np.mean(
        [255 * float(((a - b) * std).abs().mean()) for a, b, std in zip(*views, stds, strict=True)]
    )


@pytest.mark.parametrize("draw", DRAWS)
def test_training_views_of_one_draw_are_close(heads, draw):
    assert max(grey_difference(path, draw, draw) for path in heads) <= 2.5


def test_the_grey_difference_detects_a_wrong_draw(heads):
    draw = DRAWS[1]
    for wrong in (
        replace(draw, rotation=-draw.rotation),
        replace(draw, shift=(-draw.shift[0], draw.shift[1])),
        replace(draw, brightness=-draw.brightness),
    ):
        assert np.mean([grey_difference(path, draw, wrong) for path in heads]) > 2.5


@pytest.mark.parametrize("side", DISTINCT)
def test_the_counts_of_spacings_equal_the_real_table(hc18_root, side):
    records = read_hc18(hc18_root, missing=[])
    if len(records) != IMAGES:
        pytest.skip(f"{hc18_root} has {len(records)} of {IMAGES} rows")
    printed = {render_spacing(SPACING, FRAME, side, record.pixel_size_mm) for record in records}
    assert len(printed) == DISTINCT[side]
