"""The two views show the same picture, and evaluation equals torchvision bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as tv

from datamodules.pairs.transforms import Augmentation, TwoViewTransform, normalise, pad_to_square
from models import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from models.preprocessing import resize_padded

STUDENT = Preprocessing(256, IMAGENET_MEAN, IMAGENET_STD)
TEACHER = Preprocessing(224, CLIP_MEAN, CLIP_STD)


def _unnormalise(view, preprocessing):
    mean = torch.tensor(preprocessing.mean)[:, None, None]
    std = torch.tensor(preprocessing.std)[:, None, None]
    return (view * std + mean).numpy()


def _blob(width, height, x, y, sigma=20.0):
    rows, columns = np.mgrid[:height, :width]
    return (40 + 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))).astype(np.uint8)


def _centroid(plane):
    """Centre of the bright blob in the unit square, weights above half of the maximum."""
    weights = np.clip(plane - plane.max() / 2, 0, None)
    rows, columns = np.mgrid[: len(plane), : len(plane)]
    return np.array([(weights * (axis + 0.5)).sum() / weights.sum() for axis in (columns, rows)]) / len(plane)


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
@pytest.mark.parametrize("size", [(800, 540), (301, 457), (180, 120)])
def test_views_are_geometrically_aligned(size, augmentation):
    width, height = size
    transform = TwoViewTransform(STUDENT, TEACHER, augmentation)
    positions = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        image = _blob(width, height, 0.35 * width, 0.6 * height, sigma=min(size) / 15)
        student, teacher = transform(image, rng)
        assert student.shape == (3, 256, 256)
        assert teacher.shape == (3, 224, 224)
        ours = _centroid(_unnormalise(student, STUDENT)[0])
        theirs = _centroid(_unnormalise(teacher, TEACHER)[0])
        assert np.abs(ours - theirs).max() < 0.002  # half a pixel of the teacher's view
        positions.append(ours)
    spread = np.ptp(positions, axis=0).max()
    assert spread == 0 if augmentation is None else spread > 0.02


def test_without_augmentation_a_point_lands_where_the_padding_puts_it():
    student, _ = TwoViewTransform(STUDENT, None, None)(_blob(800, 500, 200, 400), np.random.default_rng(0))
    expected = np.array([200.5 / 800, (400.5 + 150) / 800])
    assert np.abs(_centroid(_unnormalise(student, STUDENT)[0]) - expected).max() < 0.003


def test_the_two_views_share_brightness_and_contrast():
    image = np.full((300, 300), 100, dtype=np.uint8)
    transform = TwoViewTransform(STUDENT, TEACHER, Augmentation())
    values = []
    for seed in range(20):
        student, teacher = transform(image, np.random.default_rng(seed))
        ours = _unnormalise(student, STUDENT)[0, 128, 128] * 255
        theirs = _unnormalise(teacher, TEACHER)[0, 112, 112] * 255
        assert ours == pytest.approx(theirs, abs=0.01)
        values.append(ours)
    assert min(values) >= 100 * 0.85**2 - 1
    assert max(values) <= 100 * 1.15**2 + 1
    assert np.std(values) > 5


def jittered(image, seed, **ranges):
    """Return the student's view in grey levels, changed in brightness and contrast only."""
    augmentation = Augmentation(
        rotation_degrees=0, translation=0, **{"brightness": 0, "contrast": 0, **ranges}
    )
    view, _ = TwoViewTransform(STUDENT, None, augmentation)(image, np.random.default_rng(seed))
    return _unnormalise(view, STUDENT).transpose(1, 2, 0) * 255


ADJUSTMENTS = {"brightness": tv.functional.adjust_brightness, "contrast": tv.functional.adjust_contrast}


@pytest.mark.parametrize("name", ADJUSTMENTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_equals_torchvision(name, channels):
    """A dark head on black; the factor is estimated from the result and then applied by torchvision."""
    noise = np.random.default_rng(5).integers(20, 90, (256, 256, channels), dtype=np.uint8)
    image = np.where(np.arange(256)[:, None, None] < 180, noise, 0).astype(np.uint8)
    image = image[:, :, 0] if channels == 1 else image
    picture = Image.fromarray(image).convert("RGB")
    head = slice(0, 180)  # holds no level that is clipped
    mean = np.asarray(picture.convert("L")).mean()
    factors = []
    for seed in range(12):
        ours = jittered(image, seed, **{name: 0.15})
        measure = np.mean if name == "brightness" else np.std
        factors.append(measure(ours[head]) / measure(np.asarray(picture)[head]))
        expected = np.asarray(ADJUSTMENTS[name](picture, factors[-1]), dtype=float)
        assert np.abs(ours - expected).max() <= 1.51, "one level of rounding, and that of the factor"
        black = 0 if name == "brightness" else max(0, mean * (1 - factors[-1]))
        assert np.abs(ours[180:] - black).max() <= 1
    assert 0.84 < min(factors) < 0.95
    assert 1.05 < max(factors) < 1.16


def test_rotation_and_brightness_are_drawn_independently():
    """With one seed for all transforms they would be correlated."""
    image = _blob(300, 300, 250, 150, sigma=12)
    transform = TwoViewTransform(STUDENT, None, Augmentation(translation=0.0, contrast=0.0))
    angles, brightness = [], []
    for seed in range(60):
        view = _unnormalise(transform(image, np.random.default_rng(seed))[0], STUDENT)[0]
        x, y = _centroid(view) - 0.5
        angles.append(np.degrees(np.arctan2(y, x)))
        brightness.append(view[128, 128])
    assert 5 < np.abs(angles).max() < 7.5
    assert abs(np.corrcoef(angles, brightness)[0, 1]) < 0.4


def test_a_transform_depends_on_the_generator_only():
    image = np.random.default_rng(3).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    transform = TwoViewTransform(STUDENT, TEACHER, Augmentation())
    first = transform(image, np.random.default_rng([1, 2, 3]))
    torch.manual_seed(99)
    np.random.seed(5)  # noqa: NPY002 - the global generator must not matter
    again = transform(image, np.random.default_rng([1, 2, 3]))
    other = transform(image, np.random.default_rng([1, 2, 4]))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_gray_and_colour_agree():
    gray = np.random.default_rng(0).integers(0, 256, (200, 300), dtype=np.uint8)
    colour = np.repeat(gray[:, :, None], 3, axis=2)
    ours = TwoViewTransform(STUDENT, TEACHER, Augmentation())
    for mine, theirs in zip(
        ours(gray, np.random.default_rng(1)), ours(colour, np.random.default_rng(1)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=0.02, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(540, 800), (541, 800), (457, 301, 3), (200, 200), (90, 120, 3)])
def test_evaluation_equals_torchvision(shape, interpolation):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    preprocessing = Preprocessing(224, CLIP_MEAN, CLIP_STD, interpolation=interpolation)
    height, width = shape[:2]
    side = max(height, width)
    source = Image.fromarray(image)
    square = Image.new(source.mode, (side, side), 0)
    square.paste(source, ((side - width) // 2, (side - height) // 2))
    reference = tv.Compose(
        [
            tv.Resize(224, tv.InterpolationMode(interpolation)),
            tv.CenterCrop(224),
            tv.Lambda(lambda picture: picture.convert("RGB")),
            tv.ToTensor(),
            tv.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )(square)
    assert torch.equal(normalise(resize_padded(image, preprocessing), preprocessing), reference)


def test_padding_keeps_the_image_and_adds_black():
    image = np.full((3, 6), 7, dtype=np.uint8)
    square = pad_to_square(image)
    assert square.shape == (6, 6)
    assert (square[1:4] == 7).all()
    assert square.sum() == image.sum()


def test_negative_ranges_are_rejected():
    with pytest.raises(ValueError, match="cannot be negative"):
        Augmentation(rotation_degrees=-1)


def _grey(view):
    return _unnormalise(view, STUDENT)[0] * 255


@pytest.mark.parametrize("zoom", [0.5, 2.0])
def test_zoom_magnifies(zoom):
    rows, columns = np.mgrid[:256, :256] - 127.5
    disc = np.where(rows**2 + columns**2 < 20**2, 240, 0).astype(np.uint8)
    transform = TwoViewTransform(STUDENT, None, None)
    area = [(_grey(transform.render(disc, np.random.default_rng(0), z)[0]) > 110).sum() for z in (1.0, zoom)]
    assert area[1] / area[0] == pytest.approx(zoom**2, rel=0.06)


@pytest.mark.parametrize("zoom", [0.5, 1.0])
def test_enlarging_is_as_likely_as_shrinking(zoom):
    transform, rng = TwoViewTransform(STUDENT, None, Augmentation(zoom=zoom)), np.random.default_rng(0)
    draws = np.array([transform.draw_zoom(rng) for _ in range(2000)])
    most = 1 + zoom
    assert 1 / most <= draws.min() < 1.05 / most
    assert most / 1.05 < draws.max() <= most
    assert abs(np.log(draws).mean()) < 0.1 * np.log(most), "more than seven standard deviations"


def test_translation_goes_both_ways_along_each_axis():
    ranges = {"rotation_degrees": 0.0, "brightness": 0.0, "contrast": 0.0}
    transform = TwoViewTransform(STUDENT, None, Augmentation(translation=0.05, **ranges))
    image = _blob(256, 256, 127.5, 127.5, sigma=12)
    views = [transform(image, np.random.default_rng(seed))[0] for seed in range(60)]
    shifts = np.array([_centroid(_grey(view)) - 0.5 for view in views])
    assert (shifts.min(axis=0) < -0.03).all()
    assert (shifts.max(axis=0) > 0.03).all()
    assert np.abs(shifts).max() < 0.055


def test_shrinking_averages_all_pixels():
    image = np.zeros((1024, 1024), np.uint8)
    image[::8, ::8] = 255
    student = replace(STUDENT, image_size=64)
    view, _ = TwoViewTransform(student, None, None)(image, np.random.default_rng(0))
    assert np.abs(_grey(view) - 255 / 64).max() < 2


def test_enlarging_overshoots_at_edges_as_cubic_interpolation_does():
    image = np.full((32, 32), 50, np.uint8)
    image[:, 16:] = 200
    student = replace(STUDENT, image_size=64)
    grey = _grey(TwoViewTransform(student, None, None)(image, np.random.default_rng(0))[0])
    assert grey.max() > 205
    assert grey.min() < 45


@pytest.mark.parametrize("student_only", [False, True])
def test_the_largest_view_determines_the_working_side(student_only):
    small = replace(STUDENT, image_size=64)
    transform = TwoViewTransform(small, TEACHER, None, student_only)
    assert transform.working_side == 2 * 224
    assert transform.prepare(np.zeros((700, 900), np.uint8)).shape == (448, 448)
