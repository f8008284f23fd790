"""Answers of a student whose embeddings and vectors are known numbers."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from datamodules.pairs.image_reading import read_image
from metrics.benchmarks import BENCHMARKS, PLANES
from models import Preprocessing
from models.student.base import BATCH_SIZE, Calibration, Student, as_array
from models.student.onnx_files import SpacingNotInTableError

DAYS = np.arange(98, 273)
ONE_PEAK = 10 - 0.4 * np.abs(DAYS - 171)
# The fifteen most similar ages are 100 to 106 and 196 to 203.
TWO_PEAKS = np.where((DAYS >= 100) & (DAYS <= 106), 10 - 0.4 * (DAYS - 100), 5 - 0.1 * np.abs(DAYS - 200))


class ByHand(Student):
    """A black image has the similarities `ONE_PEAK` with the ages, a white one `TWO_PEAKS`; the table has 0.30 mm."""

    preprocessing = Preprocessing(4, (0.0,) * 3, (1.0,) * 3)
    cosine_scale = 2.0
    calibration = None

    def __init__(self):
        self.classes = {PLANES: (["brain", "femur"], np.eye(2))}

    def embed_pixels(self, pixels):
        white = pixels[:, 0, 0, 0] / 255
        return np.stack([1 - white, white], axis=1).astype(np.float32)

    def age_vectors(self, spacing):
        return 0.3, DAYS, np.stack([ONE_PEAK, TWO_PEAKS], axis=1)


BLACK, WHITE = np.zeros((8, 6), np.uint8), np.full((8, 8), 255, np.uint8)


def test_an_age_is_the_middle_of_fifteen_and_is_told_in_weeks_and_days():
    first, second = ByHand().gestational_age([BLACK, WHITE], 0.152)
    assert (first["ga_days"], first["ga"]) == (171, "24 w 3 d")
    assert (second["ga_days"], second["ga"]) == (196, "28 w 0 d")
    assert first["ga_spacing_mm"] == 0.3, "the row of the table, not the input's 0.304"


@pytest.mark.parametrize(
    ("drop", "first", "second", "coverage"),
    [(1.0, (170, 172), (100, 196), 0.9), (None, (None, None), (None, None), None)],
)
def test_an_age_interval_follows_the_scaled_similarity_and_reaches_the_age(drop, first, second, coverage):
    student = ByHand()
    student.calibration = Calibration({}, {}, drop, 0.9, {})
    rows = student.gestational_age([BLACK, WHITE], 0.15)
    assert [(row["ga_low_days"], row["ga_high_days"]) for row in rows] == [first, second]
    assert {row["ga_coverage"] for row in rows} == {coverage}


def test_images_of_several_batches_are_answered_in_order_each_with_its_own_size():
    student, spacings = ByHand(), []
    student.age_vectors = lambda spacing: (spacings.append(spacing), *ByHand.age_vectors(student, spacing))[
        1:
    ]
    upright = Image.fromarray(BLACK)
    images = [WHITE if number % 3 else upright for number in range(2 * BATCH_SIZE + 5)]
    sizes = [0.02 * (number + 1) for number in range(len(images))]
    rows = student.gestational_age(iter(images), iter(sizes))
    assert [row["ga_days"] for row in rows] == [171 if image is upright else 196 for image in images]
    assert spacings == pytest.approx([8 / 4 * size for size in sizes]), "of the longer side"
    planes = ["brain" if image is upright else "femur" for image in images]
    assert [row["plane"] for row in student.planes(images)] == planes


def test_the_answers_of_ones_own_classes_have_the_benchmarks_name(monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "clinic", replace(BENCHMARKS[PLANES], name="clinic", own=True))
    student = ByHand()
    student.classes |= {"clinic": (["yes", "no"], np.eye(2)), "later": (["left", "right"], np.eye(2))}
    (row,) = student.planes([WHITE])
    assert (row["plane"], row["clinic"], row["later"]) == ("femur", "no", "right")
    assert row["clinic_probability"] == row["clinic_no"] == pytest.approx(1 / (1 + np.exp(-2)))


def test_a_class_named_probability_does_not_replace_the_answers_probability():
    student = ByHand()
    student.classes = {"clinic": (["probability_class", "probability"], np.eye(2)[::-1])}
    (row,) = student.planes([WHITE])
    assert row["clinic"] == "probability_class"
    assert row["clinic_probability"] == row["clinic_probability_class"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert row["clinic_probability_class_class"] == pytest.approx(1 / (1 + np.exp(2)))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1"])
def test_a_white_picture_is_white_in_every_mode(mode):
    picture = Image.new("RGB", (6, 6), "white").convert(mode)
    assert ByHand().embed([picture]).tolist() == [[0, 1]]


@pytest.mark.parametrize("size", [float("inf"), float("nan"), 0, None, "0,2", 0.0002, 200])
def test_a_pixel_size_that_is_no_plausible_number_of_millimetres_is_refused(size):
    with pytest.raises(ValueError, match=r"^pixel size .*: expected millimetres, from 0\.02 to 2$"):
        ByHand().gestational_age([BLACK], [size])


def test_an_input_of_pixels_that_print_as_zero_has_no_age():
    assert ByHand().gestational_age([BLACK[:1, :1]], 0.02)[0]["ga_days"] == 171, "0.005 mm prints as 0.01"
    with pytest.raises(
        SpacingNotInTableError, match=r"^pixel spacing 0\.004 mm of .* no ages below 0\.01 mm$"
    ):
        ByHand().ages(np.eye(2)[:1], [0.004])


@pytest.mark.parametrize(
    ("name", "options"), [("x.png", {}), ("x.jpg", {}), ("x.tif", {"compression": "tiff_lzw"})]
)
def test_a_pillow_image_is_turned_upright_as_read_image_turns_its_file(tmp_path, name, options):
    image, exif = Image.fromarray(np.linspace(0, 250, 8 * 6).astype(np.uint8).reshape(8, 6)), Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show it
    image.save(tmp_path / name, exif=exif, **options)
    with Image.open(tmp_path / name) as opened:
        found = as_array(opened)
    assert found.shape == (6, 8)
    np.testing.assert_array_equal(found, read_image(tmp_path / name))
    with Image.open(tmp_path / name) as opened:
        opened.info["exif"] = b"Exif\0\0damaged"
        assert as_array(opened).size == 48


def test_a_path_is_not_taken_for_images():
    with pytest.raises(ValueError, match="give a list of images"):
        ByHand().planes("frame.png")
