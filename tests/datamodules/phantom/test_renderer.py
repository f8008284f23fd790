import json
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.phantom.patients import Picture, list_pictures
from datamodules.phantom.renderer import HC18_PIXEL_SIZES_MM, place, render
from datamodules.record import BRAIN_PLANES, PLANES
from tests.datamodules.phantom.skull_measurement import measure_circumference

GOLDEN = Path(__file__).parent / "golden.json"


def heads(corpus: str, count: int) -> list[Picture]:
    return [p for p in list_pictures(corpus, 12 * count, 3, 1.24, 0.3) if p.plane == "brain"][:count]


def one_of_each() -> list[Picture]:
    """The first picture of every plane and brain plane."""
    pictures = sorted(list_pictures("planes", 300, 4, 6.9, 0.3), key=lambda p: (p.plane, p.brain_plane or ""))
    return [next(group) for _, group in groupby(pictures, key=lambda p: (p.plane, p.brain_plane))]


@pytest.mark.parametrize("corpus", ["hc18", "planes"])
def test_skull_measured_in_the_picture_has_the_stated_circumference(corpus: str) -> None:
    rng = np.random.default_rng(0)
    errors = []
    for picture in heads(corpus, 12):
        image, truth = render(picture, seed=3)
        skull = truth.skull
        assert skull is not None
        assert truth.hc_mm is not None
        click = skull.cx + rng.uniform(-0.06, 0.06) * skull.b, skull.cy + rng.uniform(-0.06, 0.06) * skull.b
        radius = np.sqrt(skull.a * skull.b) * rng.uniform(0.95, 1.05)
        measured_mm = measure_circumference(image, (*click, radius)) * truth.pixel_size_mm
        errors.append(measured_mm / truth.hc_mm - 1)
    assert np.abs(errors).max() < 0.01
    assert abs(np.median(errors)) < 0.003, "no bias towards the inner or the outer edge of the bone"


def test_the_measurement_detects_a_head_that_is_two_percent_too_large() -> None:
    image, truth = render(heads("hc18", 1)[0], seed=3)
    skull = truth.skull
    assert skull is not None
    grown = cv2.resize(image, None, fx=1.02, fy=1.02, interpolation=cv2.INTER_CUBIC)
    guess = (1.02 * skull.cx, 1.02 * skull.cy, float(np.sqrt(skull.a * skull.b)))
    assert measure_circumference(grown, guess) / skull.circumference == pytest.approx(1.02, abs=0.006)


def test_hc18_pixel_sizes_are_realistic_and_do_not_determine_the_head_size() -> None:
    truths = [(p, place(p, seed=5)) for p in heads("hc18", 200)]
    sizes = np.array([t.pixel_size_mm for _, t in truths])
    assert sizes.min() >= HC18_PIXEL_SIZES_MM[0]
    assert sizes.max() <= HC18_PIXEL_SIZES_MM[1]
    hc = np.array([t.hc_mm for _, t in truths])
    shares = hc / sizes / np.pi / np.array([p.height for p, _ in truths])
    assert shares.min() < 0.55
    assert shares.max() > 0.85
    assert np.corrcoef(np.log(hc), np.log(sizes))[0, 1] < 0.93, "pixel size alone does not give the size away"
    for picture, truth in truths:
        assert truth.skull is not None
        outline = truth.skull.outline()
        assert outline.min() > 0
        assert (outline < [picture.width, picture.height]).all(), "the whole skull is in the picture"


def test_rendering_is_reproducible_and_depends_on_the_seed() -> None:
    pictures = one_of_each()
    assert {p.plane for p in pictures} == set(PLANES)
    assert {p.brain_plane for p in pictures} == {None, *BRAIN_PLANES}
    for picture in pictures:
        image, truth = render(picture, seed=6)
        again, same = render(picture, seed=6)
        assert image.dtype == np.uint8
        assert image.shape == (picture.height, picture.width)
        np.testing.assert_array_equal(image, again)
        assert truth == same
        assert not np.array_equal(image, render(picture, seed=7)[0])
        assert image.std() > 8, "something is to be seen"


def test_pictures_match_the_recorded_thumbnails() -> None:
    """After an intended change, increase SIMULATOR_VERSION and run this file as a script to update the file."""
    golden = json.loads(GOLDEN.read_text())
    from datamodules.phantom.corpus import SIMULATOR_VERSION

    assert golden["simulator"] == SIMULATOR_VERSION
    for picture, expected in zip(one_of_each(), golden["thumbnails"], strict=True):
        # not bit for bit: libm and OpenCV's kernels differ a little between machines
        assert np.abs(thumbnail(picture) - np.array(expected)).mean() < 2.0


def thumbnail(picture: Picture) -> np.ndarray:
    return cv2.resize(render(picture, seed=8)[0], (12, 8), interpolation=cv2.INTER_AREA).astype(int)


if __name__ == "__main__":
    from datamodules.phantom.corpus import SIMULATOR_VERSION

    thumbnails = [thumbnail(picture).tolist() for picture in one_of_each()]
    GOLDEN.write_text(json.dumps({"simulator": SIMULATOR_VERSION, "thumbnails": thumbnails}) + "\n")
