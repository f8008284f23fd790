"""Read DICOM files and cine loops: chosen frames, cropped to the ultrasound region, with square pixels.

Only the tags of `_TAGS` are ever read from a DICOM file: names, dates and private tags do not enter the program.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.ingest.overlays import Mask, Picture, find_text

Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two are outside

CINE_SUFFIXES = frozenset({".mp4", ".avi", ".mov"})
BURNED_IN, COLOUR_FLOW, NO_REGION = "burned-in annotation", "colour flow", "no ultrasound region"
# Reasons of files that are not damaged: other kinds of files, reports and directories, traces.
NO_DICOM = "no DICOM file"
NO_PICTURE, NO_TISSUE = "no picture in the file", "no two-dimensional region (M-mode or spectrum)"

_TAGS = (
    "SOPClassUID", "PatientID", "StudyInstanceUID",  # the last two leave the program as keyed hashes only
    "Modality", "Manufacturer", "ManufacturerModelName", "Rows", "Columns", "NumberOfFrames",
    "SequenceOfUltrasoundRegions", "PixelSpacing", "PixelAspectRatio", "BurnedInAnnotation",
    "PhotometricInterpretation", "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
    "WindowCenter", "WindowWidth", "VOILUTFunction",
    *(f"{c}PaletteColorLookupTable{part}" for c in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
)  # fmt: skip
_PIXEL_TAGS = ("SamplesPerPixel", "PlanarConfiguration", "BitsAllocated", "HighBit", "PixelData")
_ULTRASOUND_CLASSES = ("1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1")
# Codes of DICOM PS3.3, C.8.5.5: units, format and type of the data of a region.
_CENTIMETRES, _SECONDS, _TWO_DIMENSIONAL, _TISSUE, _COLOUR_FLOW = 3, 4, 1, 1, 2
_COLOUR_MODELS = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}  # pydicom makes RGB of them
_MOST_STRETCH = 2.0  # pixels more oblong than this are taken for an error in the file
_GRAY_WITHIN = 12  # channels that differ less are the noise of JPEG, not colour
_SAME_FRAME = 1.5  # mean difference in grey levels, below which two frames show the same


class ScanError(ValueError):
    """A file that cannot be used. The message is a fixed text or code of the format: nothing of the file's content.

    Attributes:
        again: Whether the disk or the memory failed rather than the content.
    """

    again = False


class Frame(NamedTuple):
    """A frame of a scan."""

    number: int  # from 1
    picture: Picture  # uint8 [H, W], or [H, W, 3] (RGB) where there is colour
    text_cut_off: bool  # there was text outside the region


@dataclass(frozen=True)
class Scan:
    """An opened file.

    Attributes:
        frames: Yields the chosen frames and decodes on the way; those that repeat an earlier one are left out. Raises
            `ScanError`.
        pixel_size_mm: Side of a pixel of the yielded pictures; None where the file does not say.
        flags: Of `BURNED_IN` (the file says so), `COLOUR_FLOW` (it has a Doppler region), and `NO_REGION` (the file has
            no usable region: the pictures are cropped to the caller's, or not at all).
        attributes: modality, manufacturer, model, rows and columns of the file, and ``encoding``, its transfer syntax
            and colour model; None where unknown.
        patient, study: Identifiers of the file, "" where it has none. They must not be written anywhere.
    """

    frames: Iterator[Frame]
    pixel_size_mm: float | None
    flags: frozenset[str]
    attributes: dict[str, str | int | None]
    patient: str = field(default="", repr=False)
    study: str = field(default="", repr=False)


def check_dicom_extra() -> None:
    """Raise a ValueError if the packages that read DICOM are missing."""
    missing = [name for name in ("pydicom", "pylibjpeg", "libjpeg", "openjpeg") if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"reading DICOM needs {', '.join(missing)}: pip install '.[dicom]' in the repository (libjpeg is GPL-3)"
        )


def read_dicom(path: str | Path, frames: str = "middle", region: Box | None = None) -> Scan:
    """Open a DICOM file.

    Args:
        path: The file.
        frames: "middle", "all", or "every:N" from the first on.
        region: Part of the picture to keep where the file has no usable ultrasound region.

    Raises:
        ScanError: The file cannot be read as a picture.
    """
    check_dicom_extra()
    import pydicom

    path = Path(path)
    with reading("DICOM header"):
        force = _lacks_preamble(path)
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS), force=force)
        if force and "SOPClassUID" not in header:
            raise ScanError(NO_DICOM)
        if force and "TransferSyntaxUID" not in header.file_meta:
            header.file_meta.TransferSyntaxUID = _plain_syntax(header)
        if "Rows" not in header or "Columns" not in header:
            raise ScanError(NO_PICTURE)
        rows, columns = int(header.Rows), int(header.Columns)
        count = int(header.get("NumberOfFrames") or 1)
        area = _main_region(header, rows, columns)
        box = region if area is None else _box(area)
        spacing = _spacing(header, area)
        burned_in = str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES"
        flags = {BURNED_IN: burned_in, NO_REGION: area is None}
        flags[COLOUR_FLOW] = any(
            item.get("RegionDataType") == _COLOUR_FLOW
            for item in header.get("SequenceOfUltrasoundRegions") or ()
        )
        syntax = header.file_meta.get("TransferSyntaxUID")
        encoding = (
            f"{syntax.name if syntax else 'unknown'}, {header.get('PhotometricInterpretation', 'unknown')}"
        )
        texts = {"modality": "Modality", "manufacturer": "Manufacturer", "model": "ManufacturerModelName"}
        attributes = {name: str(header.get(tag, "")).strip() or None for name, tag in texts.items()}
        if header.get("SOPClassUID") in _ULTRASOUND_CLASSES:
            attributes["modality"] = "US"
        # pydicom converts a value at first access.
        patient, study = (str(header.get(tag) or "").strip() for tag in ("PatientID", "StudyInstanceUID"))
    stretch = _checked_stretch(1.0 if spacing is None else spacing[0] / spacing[1])
    numbers = chosen_frames(frames, count)
    pictures = _finished(_decoded(path, header, numbers), numbers, box, stretch)
    return Scan(
        frames=pictures,
        pixel_size_mm=min(spacing[:2]) if spacing is not None and spacing[2] else None,
        flags=frozenset(name for name, given in flags.items() if given),
        attributes={**attributes, "rows": rows, "columns": columns, "encoding": encoding},
        patient=patient,
        study=study,
    )


def read_cine(path: str | Path, frames: str = "middle", region: Box | None = None) -> Scan:
    """Open an MP4, AVI or MOV file with OpenCV; it has no pixel size. Arguments and errors as for `read_dicom`."""
    path = Path(path)
    with reading("cine loop"):
        video = cv2.VideoCapture(str(path))
        columns, rows, count = (
            int(video.get(key))
            for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT)
        )
        if not video.isOpened() or count < 1:
            raise ScanError("cannot be decoded as a cine loop")
        wide, high = video.get(cv2.CAP_PROP_SAR_NUM), video.get(cv2.CAP_PROP_SAR_DEN)
    stretch = _checked_stretch(high / wide if min(wide, high) > 0 else 1.0)
    numbers = chosen_frames(frames, count)
    unknown = dict.fromkeys(("modality", "manufacturer", "model"))
    attributes = {**unknown, "rows": rows, "columns": columns, "encoding": path.suffix.lstrip(".").upper()}
    pictures = _finished(_played(video, numbers), numbers, region, stretch)
    return Scan(pictures, None, frozenset({NO_REGION}), attributes)


def chosen_frames(frames: str, count: int) -> Sequence[int]:
    """Return the numbers, from 1, of the frames of a loop of `count` that "middle", "all" or "every:N" chooses."""
    if frames == "middle":
        return [count // 2 + 1]
    step = "1" if frames == "all" else frames.removeprefix("every:")
    if not step.isdecimal() or int(step) < 1:
        raise ValueError(f"frames is {frames!r}: give middle, all, or every:N, as every:5")
    return range(1, count + 1, int(step))


def is_colour(picture: Picture) -> bool:
    """Return whether over 0.2 % of the pixels are strongly coloured, as in colour Doppler; tinted grey is not."""
    if picture.ndim == 2:
        return False
    brightest = picture.max(axis=2)
    spread = brightest - picture.min(axis=2)
    return bool(((spread > 60) & (2 * spread.astype(np.int16) > brightest)).mean() > 0.002)


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn any error into a `ScanError` without its text, and silence libraries: both quote names and values."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    os.dup2(nowhere, 2)  # FFmpeg and libjpeg write there themselves
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ScanError:
        raise
    except Exception as error:  # pydicom and its decoders raise every kind
        failed = ScanError(f"{what} cannot be read ({type(error).__name__})")
        failed.again = isinstance(error, MemoryError) or getattr(error, "errno", None) is not None
        raise failed from None
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        logging.disable(level)


def _lacks_preamble(path: Path) -> bool:
    """Return whether a DICOM file starts with its elements, without the preamble of 128 bytes.

    Raises:
        ScanError: It is no DICOM file: another kind, parsed as one, may be read to its end.
    """
    with path.open("rb") as stream:
        start = stream.read(132)
    if start[128:] == b"DICM":
        return False
    if start[:2] not in (b"\x02\x00", b"\x08\x00"):  # group of the first element, little endian
        raise ScanError(NO_DICOM)
    return True


def _plain_syntax(header: Any) -> Any:
    """Return the transfer syntax of a data set that does not name it, which is then not compressed."""
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    return ImplicitVRLittleEndian if header.original_encoding[0] else ExplicitVRLittleEndian


def _main_region(header: Any, rows: int, columns: int) -> Any | None:
    """Return the largest two-dimensional region; None without regions, or if they are those of another picture.

    Files that were resized after the examination keep regions of the original size, which reach beyond the picture.
    """
    regions = list(header.get("SequenceOfUltrasoundRegions") or ())
    if not regions:
        return None
    pictures = [item for item in regions if item.get("RegionSpatialFormat") == _TWO_DIMENSIONAL]
    pictures = pictures or [item for item in regions if _may_be_picture(item)]
    if not pictures:
        raise ScanError(NO_TISSUE)
    boxes = [_box(item) for item in pictures]
    if any(right > columns + 1 or bottom > rows + 1 for _, _, right, bottom in boxes):
        return None
    return max(pictures, key=lambda item: (_box(item)[2] - _box(item)[0]) * (_box(item)[3] - _box(item)[1]))


def _may_be_picture(region: Any) -> bool:
    """Return whether a region does not say its format, and neither its data nor its units are those of a trace."""
    return (
        region.get("RegionSpatialFormat") is None
        and region.get("RegionDataType") in (None, _TISSUE, _COLOUR_FLOW)
        and region.get("PhysicalUnitsXDirection") != _SECONDS
    )


def _box(region: Any) -> Box:
    left, top = int(region.RegionLocationMinX0), int(region.RegionLocationMinY0)
    return left, top, int(region.RegionLocationMaxX1) + 1, int(region.RegionLocationMaxY1) + 1


def _check_box(box: Box | None, rows: int, columns: int) -> None:
    if box and not (0 <= box[0] < min(box[2], columns) and 0 <= box[1] < min(box[3], rows)):
        raise ScanError("the region lies outside the picture")


def _spacing(header: Any, region: Any | None) -> tuple[float, float, bool] | None:
    """Return the height and width of a pixel, and whether they are millimetres (else only their ratio counts)."""
    if region is not None:
        units = {region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")}
        sizes = [10 * abs(float(region.get(f"PhysicalDelta{axis}") or 0)) for axis in "YX"]
        if units == {_CENTIMETRES} and min(sizes) > 0:
            return sizes[0], sizes[1], True
    elif header.get("SequenceOfUltrasoundRegions"):  # of another picture: so is the rest
        return None
    for tag in ("PixelSpacing", "PixelAspectRatio"):
        height, width = map(float, header.get(tag) or (0, 0))
        if min(height, width) > 0:
            return height, width, tag == "PixelSpacing"
    return None


def _decoded(path: Path, header: Any, numbers: Sequence[int]) -> Iterator[Picture]:
    from pydicom import dcmread
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import iter_pixels

    source: Any = path
    with reading("transfer syntax"):
        syntax = header.file_meta.TransferSyntaxUID
        if syntax.is_deflated or header.preamble is None:  # can only be read as a whole
            source = dcmread(path, specific_tags=[*_TAGS, *_PIXEL_TAGS], force=True)
            source.file_meta.TransferSyntaxUID = syntax
    pixels = iter_pixels(source, indices=[number - 1 for number in numbers])
    kind = str(header.get("PhotometricInterpretation", ""))
    while True:
        with reading(f"pixel data ({syntax.name})"):
            values = next(pixels, None)
            if values is None:
                return
            if kind == "PALETTE COLOR":
                values = apply_color_lut(values, header)
                picture = _eight_bit(values, 0, 65535 if values.dtype == np.uint16 else 255)
            elif kind.startswith("MONOCHROME"):
                picture = _gray(values, header)
            elif kind in _COLOUR_MODELS:
                picture = _eight_bit(values, 0, 2 ** int(header.BitsStored) - 1)
            else:  # pydicom would return its components as they are
                raise ScanError("colour model not supported")
        yield picture


def _gray(values: NDArray[Any], header: Any) -> Picture:
    """Apply the rescaling and the window; the range that the file can store, not the one it uses, becomes 0-255."""
    from pydicom.pixels.processing import apply_rescale, apply_windowing

    bits, signed = int(header.BitsStored), int(header.PixelRepresentation)
    limits = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], np.float64)
    low, high = apply_rescale(limits, header)
    values = apply_rescale(values, header)
    if header.get("WindowWidth"):
        # From low to high, also where a negative slope makes low the larger.
        values = apply_windowing(values, header)
    else:
        low, high = sorted((low, high))
    picture = _eight_bit(values, low, high)
    return 255 - picture if header.PhotometricInterpretation == "MONOCHROME1" else picture


def _eight_bit(values: NDArray[Any], low: float, high: float) -> Picture:
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    return np.round(255 * ((values.astype(np.float64) - low) / (high - low)).clip(0, 1)).astype(np.uint8)


def _played(video: Any, numbers: Iterable[int]) -> Iterator[Picture]:
    for before, number in pairwise([0, *numbers]):
        with reading("cine loop"):  # seeking is inexact in many files
            for _ in range(number - before - 1):
                video.grab()
            read, picture = video.read()
            if not read:
                raise ScanError("the cine loop ends early")
            picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        yield picture


def _finished(
    pictures: Iterator[Picture], numbers: Iterable[int], box: Box | None, stretch: float
) -> Iterator[Frame]:
    """Crop, drop equal channels, make pixels square, and leave repeated frames out."""
    seen: list[NDArray[np.int16]] = []
    for number, whole in zip(numbers, pictures, strict=False):
        _check_box(box, *whole.shape[:2])
        picture = whole if box is None else whole[box[1] : box[3], box[0] : box[2]]
        if picture.ndim == 3 and int(np.ptp(picture, axis=2).max()) <= _GRAY_WITHIN:
            picture = np.asarray(cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY), np.uint8)
        picture = _squared(np.ascontiguousarray(picture), stretch)
        small = cv2.resize(picture, (96, 96), interpolation=cv2.INTER_AREA).astype(np.int16)
        if any(small.shape == other.shape and np.abs(small - other).mean() < _SAME_FRAME for other in seen):
            continue
        seen.append(small)
        yield Frame(number, picture, box is not None and find_text(whole, _inside(box, whole)))


def _inside(box: Box, picture: Picture) -> Mask:
    inside = np.zeros(picture.shape[:2], bool)
    inside[box[1] : box[3], box[0] : box[2]] = True
    return inside


def _checked_stretch(stretch: float) -> float:
    if not 1 / _MOST_STRETCH <= stretch <= _MOST_STRETCH:
        raise ScanError("pixels more than twice as long as wide")
    return stretch


def _squared(picture: Picture, stretch: float) -> Picture:
    """Enlarge the axis of the coarser pixels; `stretch` is the height of a pixel over its width."""
    height, width = picture.shape[:2]
    size = round(width * max(1.0, 1 / stretch)), round(height * max(1.0, stretch))
    if size == (width, height):
        return picture
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)
