"""A student from an export folder, in ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrics.benchmarks import BENCHMARKS
from models.files import sha256
from models.preprocessing import Preprocessing
from models.student.base import ANSWERS, Calibration, Floats, Student
from models.student.onnx_files import AGES, onnx_runner, read_heads

MANIFEST, FORMAT = "manifest.json", 2


class ExportedStudent(Student):
    """The float32 ONNX file of an export folder and its heads.

    Args:
        folder: The folder that `make export` wrote.

    Raises:
        ValueError: The folder holds another format, or a file was changed after the export.
        FileNotFoundError: A file is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = _manifest(folder / MANIFEST)
        self.preprocessing = Preprocessing.from_dict(manifest["contract"]["preprocessing"])
        heads = read_heads(_checked(folder, manifest, "heads"))
        self._ages = heads.pop(AGES, None)
        order = [*BENCHMARKS]
        self.classes = {
            name: (heads[name].description["labels"], heads[name].vectors)
            for name in sorted(heads, key=lambda name: order.index(name) if name in order else len(order))
        }
        self.cosine_scale = float(next(iter(heads.values())).description["cosine_scale"])
        answers = manifest.get(ANSWERS)
        self.calibration = None if answers is None else Calibration(**answers)
        self._run = onnx_runner(_checked(folder, manifest, "onnx-fp32"))

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> Floats:
        """Embed prepared RGB images [N, S, S, 3]: unit-length [N, D], float32."""
        return self._run(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32))

    def age_vectors(self, spacing: float) -> tuple[float, NDArray[np.int64], Floats]:
        """Return the vectors of the spacing in the age table that is nearest.

        Raises:
            ValueError: The export has no age table.
        """
        if self._ages is None:
            raise ValueError(
                f"{self.folder}: exported without an age table; export again with --spacings=[0.21]"
            )
        known = np.array([float(text) for text in self._ages.description["spacings_mm_per_px"]])
        row = int(np.abs(known - spacing).argmin())
        first, last = self._ages.description["ages_days"]
        return float(known[row]), np.arange(first, last + 1), self._ages.vectors[row]


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the manifest of an export; export again") from error
    if found != FORMAT:
        raise ValueError(f"{path}: format {found}, expected {FORMAT}; export again")
    return manifest


def _checked(folder: Path, manifest: dict[str, Any], name: str) -> Path:
    """Return the path of an artifact whose hash is the manifest's."""
    entry = manifest["artifacts"].get(name)
    if entry is None:
        raise ValueError(f"{folder}: the export has no {name}; export again without --skip={name}")
    path = folder / str(entry["file"])
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing, though {MANIFEST} lists it; export again")
    if sha256(path) != entry["sha256"]:
        raise ValueError(f"{path}: its hash is not the manifest's, so the file was changed; export again")
    return path
