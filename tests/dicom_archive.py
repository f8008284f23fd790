"""Write a hospital's DICOM archive of phantom pictures, with identifiers planted wherever a real one has them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

from datamodules.phantom.patients import list_pictures
from datamodules.phantom.renderer import render

BANNER = 40  # rows above the region, with the patient's name
MARGIN = 24  # columns on its left
# One secret of each kind that a user's environment may hold; the last is that of `data ingest`.
SECRETS = {
    "WANDB_API_KEY": "5ec4e7" + 34 * "a",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDSECRETID1",
    "AWS_SECRET_ACCESS_KEY": "Pl4ntedAwsSecretAccessKeyOfFortySigns00",
    "HF_TOKEN": "hf_Pl4ntedHubToken",
    "SONODISTILL_SECRET": "a secret of twenty-eight signs",
}
BIRTH_DATE, EXAM_DATE = "19910417", "20240229"


def write_archive(
    root: Path, patients: int = 4, frames: int = 3, seed: int = 0, corpus: str = "hc18"
) -> pd.DataFrame:
    """Write one multi-frame file for every phantom picture of `patients` patients, in folders named after them.

    The pictures are heads ("hc18") or of all planes ("planes"). The last frame repeats the first. Every picture has a
    banner with the name above its ultrasound region.

    Returns:
        A row for each file: ``file`` (path below `root`), ``patient`` and ``study`` (identifiers in the file), name,
        plane, brain_plane, ga_days, hc_mm, pixel_size_mm.
    """
    rows = []
    pictures = [
        p for p in list_pictures(corpus, 3 * patients, seed, 1.5, 0.3) if p.patient.number <= patients
    ]
    for picture in pictures:
        number = picture.patient.number
        name, patient = f"Planted{number:03d}^Jane{number:03d}", f"MRN-77{number:05d}"
        study = f"1.2.826.0.1.3680043.8.498.77{number:06d}"
        still, truth = render(picture, seed)
        loop = np.stack([banner(moved(still, i, seed), name, patient) for i in [*range(frames - 1), 0]])
        pixel_size = round(truth.pixel_size_mm, 4)
        dataset = file_of(loop, region=(MARGIN, BANNER, MARGIN + still.shape[1], BANNER + still.shape[0]),
                          pixel_size_mm=pixel_size)  # fmt: skip
        identify(dataset, name, patient, study)
        file = Path(f"{name.replace('^', '_')}_{BIRTH_DATE}") / f"{name.split('^')[0]}-{picture.index}.dcm"
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(root / file, enforce_file_format=True)
        rows.append({
            "file": str(file), "patient": patient, "study": study, "name": name, "plane": picture.plane,
            "brain_plane": picture.brain_plane, "ga_days": truth.ga_days, "hc_mm": truth.hc_mm,
            "pixel_size_mm": pixel_size,
        })  # fmt: skip
    return pd.DataFrame(rows)


def planted(truth: pd.DataFrame) -> set[str]:
    """Return every text that must not come out of an archive of `write_archive`."""
    names = {part for name in truth["name"] for part in name.split("^")}
    return names | {
        *truth["patient"],
        *truth["study"],
        BIRTH_DATE,
        EXAM_DATE,
        "St. Planted Hospital",
        "Secret remark",
    }


def texts_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and every text of each file: bytes, members of archives, cells of tables."""
    for path in sorted(folder.rglob("*")):
        yield str(path.relative_to(folder)), str(path.relative_to(folder))
        if not path.is_file() or path.is_symlink():
            continue
        parts = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                parts += [archive.read(name) for name in archive.namelist()]
        for part in parts:
            yield str(path), part.decode("latin-1")
            yield str(path), part.decode("utf-16-le", "ignore")
        if path.suffix == ".parquet":
            yield str(path), pq.read_table(path).to_pandas().to_csv() + str(pq.read_schema(path).metadata)


def moved(still: np.ndarray, step: int, seed: int) -> np.ndarray:
    """Return the picture as a later frame of a loop: shifted, with other noise."""
    noise = np.random.default_rng([seed, step]).normal(0, 8, still.shape)
    return np.clip(np.roll(still, 4 * step, 1) + noise * (still > 0), 0, 255).astype(np.uint8)


def banner(picture: np.ndarray, name: str, patient: str) -> np.ndarray:
    """Return the picture as on a machine's screen, the name and identifier above it."""
    screen = np.zeros((picture.shape[0] + BANNER, picture.shape[1] + MARGIN), np.uint8)
    screen[BANNER:, MARGIN:] = picture
    write(screen, f"{name} {patient}", (6, 26))
    return screen


def write(picture: np.ndarray, text: str, where: tuple[int, int]) -> None:
    """Burn a text into a picture in place."""
    cv2.putText(picture, text, where, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (230,) * 3, 1, cv2.LINE_AA)


def file_of(
    frames: np.ndarray,
    *,
    photometric: str | None = None,
    region: Sequence[int] | None = None,
    pixel_size_mm: float | tuple[float, float] = 0.2,
    units: int = 3,
    **tags: Any,
) -> Dataset:
    """Return a DICOM ultrasound file, uncompressed.

    Args:
        frames: uint8 or uint16, [F, H, W] or [F, H, W, 3].
        photometric: MONOCHROME2 or RGB by default.
        region: left, top, right, bottom of its ultrasound region; the last two are outside.
        pixel_size_mm: Of the region; or its width and height.
        units: Code of the region's units, 3 for centimetres.
        tags: Further elements, by keyword.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = UltrasoundMultiFrameImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.Modality, dataset.Manufacturer, dataset.ManufacturerModelName = "US", "Phantom Works", "P-1"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape[:3]
    dataset.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    if frames.ndim == 4:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric or ("RGB" if frames.ndim == 4 else "MONOCHROME2")
    dataset.BitsAllocated = dataset.BitsStored = 8 * frames.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.PixelData = frames.tobytes() + b"\0" * (frames.nbytes % 2)
    if region is not None:
        dataset.SequenceOfUltrasoundRegions = [region_item(region, pixel_size_mm, units)]
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def region_item(
    region: Sequence[int], pixel_size_mm: float | tuple[float, float], units: int = 3, **tags: Any
) -> Dataset:
    """Return an item of the sequence of ultrasound regions, by default a two-dimensional picture of tissue."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = region[0], region[1]
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = region[2] - 1, region[3] - 1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    x, y = pixel_size_mm if isinstance(pixel_size_mm, tuple) else (pixel_size_mm, pixel_size_mm)
    item.PhysicalDeltaX, item.PhysicalDeltaY = x / 10, y / 10
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item


def identify(dataset: Dataset, name: str, patient: str, study: str) -> None:
    """Plant identifiers in standard and private tags, in a nested sequence and in an overlay plane."""
    dataset.PatientName, dataset.PatientID, dataset.StudyInstanceUID = name, patient, study
    dataset.PatientBirthDate, dataset.StudyDate, dataset.ContentDate = BIRTH_DATE, EXAM_DATE, EXAM_DATE
    dataset.InstitutionName, dataset.ImageComments = "St. Planted Hospital", f"Secret remark on {name}"
    dataset.StudyDescription = dataset.SeriesDescription = f"{name} {BIRTH_DATE}"
    dataset.private_block(0x0099, "PLANTED", create=True).add_new(0x10, "LO", f"{name} {patient}")
    request = Dataset()
    request.PatientName, request.AccessionNumber = name, patient
    dataset.RequestAttributesSequence = [request]
    plane = np.zeros((dataset.Rows, -(-dataset.Columns // 16) * 16), np.uint8)
    write(plane, name, (dataset.Columns // 4, dataset.Rows // 2))
    dataset.add_new((0x6000, 0x0010), "US", dataset.Rows)
    dataset.add_new((0x6000, 0x0011), "US", plane.shape[1])
    dataset.add_new((0x6000, 0x0022), "LO", f"Overlay {name}")
    dataset.add_new((0x6000, 0x0040), "CS", "G")
    dataset.add_new((0x6000, 0x0050), "SS", [1, 1])
    dataset.add_new((0x6000, 0x0100), "US", 1)
    dataset.add_new((0x6000, 0x0102), "US", 0)
    dataset.add_new((0x6000, 0x3000), "OW", np.packbits(plane > 0, bitorder="little").tobytes())
