"""Reading scans: photometric interpretations, transfer syntaxes, regions, pixel sizes, choice of frames."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from datamodules.ingest.scans import (
    BURNED_IN,
    COLOUR_FLOW,
    NO_REGION,
    ScanError,
    chosen_frames,
    is_colour,
    read_dicom,
)
from tests.dicom_archive import file_of, region_item

RNG = np.random.default_rng(0)
LOOP = RNG.integers(0, 256, (5, 48, 64), dtype=np.uint8)


@pytest.fixture
def saved(tmp_path):
    def save(frames=LOOP, **options):
        file_of(np.asarray(frames), **options).save_as(tmp_path / "scan.dcm", enforce_file_format=True)
        return tmp_path / "scan.dcm"

    return save


def read(path, frames="all", **options):
    return [frame.picture for frame in read_dicom(path, frames, **options).frames]


@pytest.mark.parametrize(
    ("frames", "numbers"), [("middle", [3]), ("all", [1, 2, 3, 4, 5]), ("every:2", [1, 3, 5])]
)
def test_frames_are_chosen_and_numbered_from_one(saved, frames, numbers):
    scan = read_dicom(saved(), frames)
    found = list(scan.frames)
    assert [frame.number for frame in found] == numbers
    for frame in found:
        np.testing.assert_array_equal(frame.picture, LOOP[frame.number - 1])


def test_the_middle_of_an_even_number_of_frames_is_the_later_one():
    assert [chosen_frames("middle", count) for count in (1, 2, 4)] == [[1], [2], [3]]


def test_a_frame_that_repeats_any_earlier_one_is_left_out(saved):
    almost = np.clip(LOOP[0].astype(int) + RNG.integers(-1, 2, LOOP[0].shape), 0, 255).astype(np.uint8)
    frames = read_dicom(saved([LOOP[0], LOOP[1], almost, LOOP[1], LOOP[2]]), "all").frames
    assert [frame.number for frame in frames] == [1, 2, 5]


@pytest.mark.parametrize("frames", ["first", "every:0", "every:", "every:-2"])
def test_an_unknown_choice_of_frames_is_refused(saved, frames):
    with pytest.raises(ValueError, match="every:N"):
        read_dicom(saved(), frames)


def test_gray_is_scaled_by_the_bits_stored_and_monochrome1_is_inverted(saved):
    wide = np.array([[[0, 1023, 2046, 4095]] * 4], np.uint16)
    tags = {"BitsStored": 12, "HighBit": 11}
    np.testing.assert_array_equal(read(saved(wide, **tags))[0][0], [0, 64, 127, 255])
    inverted = read(saved(wide, photometric="MONOCHROME1", **tags))[0][0]
    np.testing.assert_array_equal(inverted, [255, 191, 128, 0])
    window = {"WindowCenter": 512, "WindowWidth": 1024}  # 0 to 1023
    np.testing.assert_array_equal(read(saved(wide, **tags, **window))[0][0], [0, 255, 255, 255])


def test_text_in_the_unused_bits_of_a_pixel_does_not_come_out(saved):
    """Old files keep overlay planes there."""
    wide = np.full((1, 40, 40), 2048, np.uint16)
    planted = wide.copy()
    planted[0, 10:20, 10:20] |= 1 << 12
    tags = {"BitsStored": 12, "HighBit": 11}
    np.testing.assert_array_equal(read(saved(planted, **tags))[0], read(saved(wide, **tags))[0])


def test_equal_channels_become_gray_and_colour_stays_rgb(saved):
    gray = np.repeat(LOOP[:1, :, :, None], 3, axis=3)
    np.testing.assert_array_equal(read(saved(gray))[0], LOOP[0])
    colour = gray.copy()
    colour[0, 10:20, 10:20] = (250, 20, 10)
    np.testing.assert_array_equal(read(saved(colour))[0], colour[0])
    assert is_colour(read(saved(colour))[0])
    tinted = (gray[0] * np.array([1.0, 0.85, 0.65])).astype(np.uint8)
    assert not is_colour(tinted), "sepia is no Doppler"


@pytest.mark.parametrize(("difference", "axes"), [(12, 2), (30, 3)])
def test_channels_that_differ_by_the_noise_of_jpeg_are_gray(saved, difference, axes):
    nearly = np.full((1, 48, 64, 3), 100, np.uint8)
    nearly[0, 10:20, 10:20, 2] += difference
    assert read(saved(nearly))[0].ndim == axes


@pytest.mark.parametrize(
    ("colour", "side", "doppler"),
    [((200, 60, 60), 10, True), ((200, 60, 60), 3, False), ((70, 30, 30), 50, False)],
)
def test_strong_colour_in_one_pixel_of_500_is_doppler(colour, side, doppler):
    picture = np.full((100, 100, 3), 80, np.uint8)
    picture[:side, :side] = colour
    assert is_colour(picture) == doppler


def test_ybr_and_palette_are_converted(saved):
    rgb = np.zeros((1, 16, 16, 3), np.uint8)
    rgb[:, :8], rgb[:, 8:] = (200, 30, 40), (20, 180, 90)
    ycc = cv2.cvtColor(rgb[0], cv2.COLOR_RGB2YCrCb)[None, :, :, [0, 2, 1]]  # DICOM: Cb before Cr
    assert np.abs(read(saved(ycc, photometric="YBR_FULL"))[0].astype(int) - rgb[0]).max() <= 2
    indices = RNG.integers(0, 256, (1, 16, 16), dtype=np.uint8)
    table = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 77)]).astype(np.uint8)
    tags = {}
    for colour, values in zip(("Red", "Green", "Blue"), table, strict=True):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        tags[f"{colour}PaletteColorLookupTableData"] = values.tobytes()
    picture = read(saved(indices, photometric="PALETTE COLOR", **tags))[0]
    np.testing.assert_array_equal(picture, table[:, indices[0]].transpose(1, 2, 0))


def test_the_picture_is_cropped_to_its_region_in_centimetres(saved):
    scan = read_dicom(saved(region=(10, 8, 50, 40), pixel_size_mm=0.31))
    assert scan.pixel_size_mm == pytest.approx(0.31)
    assert not scan.flags
    (frame,) = scan.frames
    np.testing.assert_array_equal(frame.picture, LOOP[2, 8:40, 10:50])


def test_without_a_region_pixel_spacing_counts_and_the_flag_says_so(saved):
    scan = read_dicom(saved(PixelSpacing=[0.25, 0.25]))
    assert (scan.pixel_size_mm, scan.flags) == (0.25, {NO_REGION})
    scan = read_dicom(saved(), region=(4, 2, 44, 32))
    assert (scan.pixel_size_mm, scan.flags) == (None, {NO_REGION})
    assert next(scan.frames).picture.shape == (30, 40)


def test_pixel_spacing_comes_before_the_aspect_ratio(saved):
    assert read_dicom(saved(PixelSpacing=[0.25, 0.25], PixelAspectRatio=[1, 1])).pixel_size_mm == 0.25


def test_a_negative_size_of_an_axis_that_points_up_is_a_pixel_size(saved):
    item = region_item((0, 0, 64, 48), 0.2)
    item.PhysicalDeltaY = -item.PhysicalDeltaY
    assert read_dicom(saved(SequenceOfUltrasoundRegions=[item])).pixel_size_mm == pytest.approx(0.2)


def test_a_region_may_name_the_first_row_and_column_beyond_the_picture(saved):
    scan = read_dicom(saved(region=(10, 8, 65, 49), pixel_size_mm=0.2))
    assert (scan.pixel_size_mm, scan.flags) == (pytest.approx(0.2), set())
    assert next(scan.frames).picture.shape == (40, 54)


@pytest.mark.parametrize("box", [(70, 2, 90, 30), (4, 50, 44, 60), (-1, 2, 44, 30), (4, 30, 44, 2)])
def test_a_given_region_outside_the_picture_is_an_error(saved, box):
    with pytest.raises(ScanError, match="outside the picture"):
        read(saved(), region=box)


@pytest.mark.parametrize(
    ("error", "again"),
    [(OSError(5, "Input/output error"), True), (MemoryError(), True), (OSError("no such code"), False)],
)
def test_a_file_is_read_again_where_disk_or_memory_failed(saved, monkeypatch, error, again):
    def fail(*_, **__):
        raise error

    path = saved()
    monkeypatch.setattr("pydicom.dcmread", fail)
    with pytest.raises(ScanError, match="cannot be read") as failed:
        read_dicom(path)
    assert failed.value.again == again


def test_units_other_than_centimetres_give_no_pixel_size(saved):
    assert read_dicom(saved(region=(0, 0, 64, 48), units=4)).pixel_size_mm is None  # seconds


def test_oblong_pixels_are_made_square_at_the_finer_size(saved):
    circle = np.zeros((1, 100, 100), np.uint8)
    cv2.ellipse(circle[0], (50, 50), (40, 20), 0, 0, 360, 255, -1)  # a disc of radius 8 mm
    scan = read_dicom(saved(circle, region=(0, 0, 100, 100), pixel_size_mm=(0.2, 0.4)))
    picture = next(scan.frames).picture
    assert (scan.pixel_size_mm, picture.shape) == (pytest.approx(0.2), (200, 100))
    rows, columns = np.nonzero(picture > 127)
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 2
    assert next(read_dicom(saved(circle, PixelAspectRatio=[2, 1])).frames).picture.shape == (200, 100)
    with pytest.raises(ScanError, match="twice"):
        read_dicom(saved(circle, region=(0, 0, 100, 100), pixel_size_mm=(0.1, 0.9)))


def test_the_largest_two_dimensional_region_is_taken(saved):
    items = [
        region_item((0, 0, 64, 48), 0.5, RegionSpatialFormat=3),  # a spectrum
        region_item((2, 2, 60, 40), 0.2),
        region_item((10, 10, 20, 20), 0.2, RegionDataType=2),  # its colour box
    ]
    scan = read_dicom(saved(SequenceOfUltrasoundRegions=items))
    assert (scan.pixel_size_mm, scan.flags) == (pytest.approx(0.2), {COLOUR_FLOW})
    assert next(scan.frames).picture.shape == (38, 58)
    with pytest.raises(ScanError, match="M-mode"):
        read_dicom(saved(SequenceOfUltrasoundRegions=items[:1]))


@pytest.mark.parametrize(
    ("tags", "taken"),
    [
        ({}, True),
        ({"RegionDataType": 2}, True),
        ({"RegionDataType": 3}, False),  # PW spectral Doppler
        ({"PhysicalUnitsXDirection": 4}, False),  # seconds
    ],
)
def test_a_region_without_a_format_is_a_picture_unless_its_data_or_axis_say_no(saved, tags, taken):
    item = region_item((2, 2, 60, 40), 0.2, **tags)
    del item.RegionSpatialFormat
    path = saved(SequenceOfUltrasoundRegions=[item])
    if taken:
        assert next(read_dicom(path).frames).picture.shape == (38, 58)
    else:
        with pytest.raises(ScanError, match="M-mode"):
            read_dicom(path)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("meta", [True, False])
def test_a_file_without_a_preamble_is_read(tmp_path, implicit, meta):
    dataset = file_of(LOOP, region=(10, 8, 50, 40), pixel_size_mm=0.31)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    path = tmp_path / "scan"
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes()[132:]
    if not meta:
        content = content[12 + int.from_bytes(content[8:12], "little") :]
    path.write_bytes(content)
    scan = read_dicom(path, "every:2")
    assert (scan.pixel_size_mm, scan.attributes["manufacturer"]) == (pytest.approx(0.31), "Phantom Works")
    for frame, number in zip(scan.frames, (0, 2, 4), strict=True):
        np.testing.assert_array_equal(frame.picture, LOOP[number, 8:40, 10:50])


@pytest.mark.parametrize("start", [b"", b"\x08\x00", b"\x02\x00\x10\x00UI", b"\x89PNG"])
def test_a_file_that_only_starts_like_a_data_set_is_no_dicom(tmp_path, start):
    (tmp_path / "notes").write_bytes(start + b"Planted Jane" * 100)
    with pytest.raises(ScanError, match=r"^no DICOM file$"):
        read_dicom(tmp_path / "notes")


def test_a_region_of_another_size_gives_neither_crop_nor_pixel_size(saved):
    scan = read_dicom(saved(region=(20, 20, 200, 150), PixelSpacing=[0.2, 0.2]))
    assert (scan.pixel_size_mm, scan.flags) == (None, {NO_REGION})


@pytest.mark.parametrize(("said", "flags"), [("YES", {BURNED_IN}), ("Yes", {BURNED_IN}), ("NO", set())])
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_a_burned_in_annotation_is_flagged(saved, said, flags):
    assert read_dicom(saved(region=(0, 0, 64, 48), BurnedInAnnotation=said)).flags == flags


# Sample files of pydicom, without downloads: (name, shape of the first picture, its frames after repeats are dropped).
SAMPLES = {
    "examples_rgb_color.dcm": ((240, 320, 3), 1),  # ultrasound, RGB, uncompressed
    "ExplVR_BigEnd.dcm": ((60, 80, 3), 1),  # ultrasound, RGB, big endian
    "examples_palette.dcm": ((350, 800, 3), 1),  # ultrasound, palette
    "examples_jpeg2k.dcm": ((480, 640, 3), 1),  # ultrasound, YBR_RCT, JPEG 2000 lossless
    "examples_ybr_color.dcm": ((240, 320, 3), 13),  # ultrasound, YBR_FULL_422, JPEG baseline, 30 frames
    "SC_ybr_full_422_uncompressed.dcm": ((100, 100, 3), 1),
    "SC_rgb_jpeg_gdcm.dcm": ((100, 100, 3), 1),  # JPEG lossless
    "JPGExtended.dcm": ((1024, 256), 1),  # JPEG extended, 12 bit
    "SC_rgb_jls_lossy_line.dcm": ((100, 100, 3), 1),  # JPEG-LS near-lossless
    "MR_small_jpeg_ls_lossless.dcm": ((64, 64), 1),
    "SC_rgb_rle_2frame.dcm": ((100, 100, 3), 2),  # RLE
    "SC_rgb_rle_16bit.dcm": ((100, 100, 3), 1),
    "image_dfl.dcm": ((512, 512), 1),  # deflated
    "MR_small_implicit.dcm": ((64, 64), 1),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_every_transfer_syntax_are_read(name):
    pictures = read(Path(get_testdata_file(name, download=False)))
    assert (pictures[0].shape, len(pictures)) == SAMPLES[name]
    assert pictures[0].std() > 0


def test_two_encodings_of_a_picture_agree():
    raw, *others = (
        read(Path(get_testdata_file(f"MR_small{suffix}.dcm", download=False)))[0]
        for suffix in ("", "_RLE", "_jp2klossless", "_jpeg_ls_lossless", "_bigendian", "_implicit")
    )
    for other in others:
        np.testing.assert_array_equal(other, raw)


@pytest.mark.parametrize("name", ["MR_truncated.dcm", "rtplan.dcm", "badVR.dcm", "no_meta.dcm"])
def test_a_bad_file_is_one_error_without_its_content(name, capfd):
    path = Path(get_testdata_file(name, download=False))
    with pytest.raises(ScanError) as caught:
        read(path)
    assert name not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_missing_packages_are_one_line(saved, monkeypatch):
    path = saved()
    monkeypatch.setattr("datamodules.ingest.scans.find_spec", lambda name: None if name == "libjpeg" else sys)
    with pytest.raises(ValueError, match=r"libjpeg: .*pip install '.\[dicom\]'"):
        read_dicom(path)


@pytest.mark.parametrize("photometric", ["YBR_PARTIAL_422", "YBR_PARTIAL_420", "CMYK"])
def test_a_colour_model_that_is_not_converted_is_an_error(saved, photometric):
    frames = np.full((1, 8, 8, 3), 100, np.uint8)
    with pytest.raises(ScanError, match="colour model not supported"):
        read(saved(frames, photometric=photometric))


def test_a_path_may_be_a_text(saved):
    assert len(list(read_dicom(str(saved())).frames)) == 1


def test_rescaled_values_keep_the_range_that_the_file_can_store(saved):
    wide = np.array([[[0, 1023, 2046, 4095]] * 4], np.uint16)
    tags = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": "2", "RescaleIntercept": "-1000"}
    np.testing.assert_array_equal(read(saved(wide, **tags))[0][0], [0, 64, 127, 255])


def test_signed_values_are_scaled_by_the_bits_stored(saved):
    signed = np.array([[[-2048, 0, 1024, 2047]] * 4], np.int16).view(np.uint16)
    tags = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}
    np.testing.assert_array_equal(read(saved(signed, **tags))[0][0], [0, 128, 191, 255])


def test_a_negative_slope_inverts_the_picture_with_and_without_a_window(saved):
    stored = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    for window in ({}, {"WindowCenter": 128, "WindowWidth": 256}):
        path = saved(stored, RescaleSlope=-1, RescaleIntercept=255, **window)
        (picture,) = read(path)
        np.testing.assert_allclose(picture, 255 - stored[0], atol=1)  # windows end at half grey levels


def test_a_damaged_identifier_is_shown_nowhere(saved, capfd):
    path = saved(StudyInstanceUID="11.2.826.0", PatientID="MRN7")
    sane = path.read_bytes()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        path.write_bytes(sane.replace(b"11.2.826.0", b"01.2.826.0"))
        assert read_dicom(path).study == "01.2.826.0"
        path.write_bytes(sane.replace(b"\x10\x00 \x00LO", b"\x10\x00 \x00ZZ"))
        with pytest.raises(ScanError, match=r"^DICOM header cannot be read \(NotImplementedError\)$"):
            read_dicom(path)
    assert not shown
    assert capfd.readouterr() == ("", "")
