"""Captions contain the facts of the record, and the spacing at the model's resolution."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datamodules.pairs.captions import SPACING, caption_templates, render_spacing
from datamodules.pairs.sample import PairBuilder
from datamodules.pairs.transforms import Augmentation
from datamodules.record import BRAIN_PLANES, PLANES, Record
from models import Preprocessing
from models.text.tokenizer import UNKNOWN, fetal_vocabulary

RECORD = Record(corpus="planes", name="a", image=Path("a.png"), patient="1", plane="brain")


@pytest.mark.parametrize("plane", PLANES)
def test_every_plane_has_several_distinct_captions(plane):
    captions = caption_templates(replace(RECORD, plane=plane))
    assert len(set(captions)) == len(captions) >= 3
    assert not any("{" in caption for caption in captions)


def test_captions_of_different_planes_never_coincide():
    captions = [caption for plane in PLANES for caption in caption_templates(replace(RECORD, plane=plane))]
    assert len(set(captions)) == len(captions)
    specific = [
        caption
        for plane in BRAIN_PLANES[:3]
        for caption in caption_templates(replace(RECORD, brain_plane=plane))
        if plane in caption
    ]
    assert len(set(specific)) == len(specific) == 3 * 4
    assert not set(specific) & set(captions)


def test_facts_of_a_brain_occur_together_and_separately():
    known = replace(RECORD, brain_plane="trans-thalamic", ga_days=150, pixel_size_mm=0.1)
    captions = caption_templates(known)
    kinds = {("trans-thalamic" in caption, "21 weeks" in caption) for caption in captions}
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}


def test_most_captions_of_a_fully_known_brain_have_all_facts():
    known = replace(RECORD, brain_plane="trans-thalamic", ga_days=150, pixel_size_mm=0.1)
    kinds = Counter(("trans-thalamic" in caption, "weeks" in caption) for caption in caption_templates(known))
    share = {kind: count / kinds.total() for kind, count in kinds.items()}
    assert share == {(True, True): 0.6, (True, False): 0.2, (False, True): 0.1, (False, False): 0.1}


def test_age_and_spacing_are_written_out():
    record = replace(RECORD, ga_days=7 * 23 + 4, pixel_size_mm=0.12)
    captions = caption_templates(record)
    dated = [caption for caption in captions if "weeks" in caption]
    assert len(dated) == len(captions) - 2  # the others say only what plane it is
    assert all("23 weeks and 4 days" in caption and SPACING in caption for caption in dated)
    text = render_spacing(captions[0], (800, 540), 256, 0.12)
    assert text == "fetal head at 23 weeks and 4 days, pixel spacing 0.38 mm"  # 800 / 256 * 0.12 = 0.375
    upright = render_spacing(captions[0], (540, 800), 224, 0.12)
    assert upright.endswith("0.43 mm")  # 800 / 224 * 0.12 = 0.4286


def test_an_age_without_pixel_size_leaves_the_spacing_out():
    captions = caption_templates(replace(RECORD, ga_days=140))
    assert sum("20 weeks and 0 days" in caption for caption in captions) == len(captions) - 2
    assert not any(SPACING in caption for caption in captions)


def test_a_given_caption_is_the_only_one_and_keeps_its_braces():
    record = replace(RECORD, caption=" Twins {A} ")
    assert caption_templates(record) == ("Twins {A}",)
    text = render_spacing("Twins {A}", (8, 8), 8, None)
    assert text == "Twins {A}"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (replace(RECORD, caption="  "), "a: the caption is empty"),
        (replace(RECORD, plane=None), "a: neither a caption nor a plane"),
    ],
)
def test_a_record_without_facts_is_an_error(record, message):
    with pytest.raises(ValueError, match=message):
        caption_templates(record)


def test_spacing_needs_a_pixel_size():
    with pytest.raises(ValueError, match="needs the pixel size"):
        render_spacing("at {spacing} mm", (8, 8), 8, None)


def test_the_compact_vocabulary_knows_every_word():
    words = set(fetal_vocabulary()) - {UNKNOWN}
    records = [replace(RECORD, plane=plane) for plane in PLANES]
    records += [replace(RECORD, brain_plane=plane) for plane in BRAIN_PLANES]
    records += [replace(RECORD, ga_days=150), replace(RECORD, ga_days=150, pixel_size_mm=0.1)]
    for record in records:
        for caption in caption_templates(record):
            bare = caption.replace(SPACING, "0").replace("-", " ").replace(",", " ")
            assert set(bare.split()) <= words


def test_a_caption_states_the_pixel_size_after_the_zoom():
    """Magnified twice, a 100 x 100 image of 0.2 mm has pixels of 0.1 mm."""
    record = replace(RECORD, caption=f"head, {SPACING} mm", pixel_size_mm=0.2)
    view = Preprocessing(100, (0.5,) * 3, (0.5,) * 3)
    builder = PairBuilder(view, None, Augmentation(zoom=1.0))
    builder.draw_zoom = lambda _: 2.0
    pair = builder.pair(record, np.zeros((100, 100), np.uint8), np.random.default_rng(0))
    assert pair["student_text"] == "head, 0.10 mm"
