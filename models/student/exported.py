"""A student from an export folder, in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metrics.benchmarks import BENCHMARKS
from models.preprocessing import Preprocessing
from models.student.base import ANSWERS, Calibration, Floats, Student
from models.student.manifest import artifact_path, checked_heads, read_manifest
from models.student.onnx_files import AGES, age_row, onnx_runner


class ExportedStudent(Student):
    """The float32 ONNX file of an export folder and its heads.

    Args:
        folder: The folder that `make export` wrote.
        threads: Threads of ONNX Runtime; 0 leaves the choice to it.

    Raises:
        ValueError: The folder holds another format, or a file was changed after the export.
        FileNotFoundError: A file is missing.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.folder = folder
        manifest = read_manifest(folder)
        self.preprocessing = Preprocessing(**manifest["contract"]["preprocessing"])
        heads = checked_heads(folder, manifest)
        self._ages = heads.pop(AGES, None)
        if not heads:
            raise ValueError(f"{folder}: the export has no class heads; export again")
        order = [*BENCHMARKS]
        self.classes = {
            name: (heads[name].description["labels"], heads[name].vectors)
            for name in sorted(heads, key=lambda name: order.index(name) if name in order else len(order))
        }
        self.cosine_scale = float(next(iter(heads.values())).description["cosine_scale"])
        answers = manifest.get(ANSWERS)
        self.calibration = None if answers is None else Calibration(**answers)
        self._run = onnx_runner(artifact_path(folder, manifest, "onnx-fp32"), threads)

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> Floats:
        return self._run(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32))

    def age_vectors(self, spacing: float) -> tuple[float, NDArray[np.int64], Floats]:
        """Return the vectors of a spacing, a row of the age table.

        Raises:
            ValueError: The export has no age table.
            SpacingNotInTableError: The table has no such row.
        """
        if self._ages is None or self._ages.basis is None:
            raise ValueError(
                f"{self.folder}: exported without an age table; export again with --spacings=[{spacing:.2f}]"
            )
        description = self._ages.description
        row = age_row(description, spacing)
        first, last = description["ages_days"]
        vectors: Floats = self._ages.vectors[row] @ self._ages.basis
        return float(description["spacings_mm_per_px"][row]), np.arange(first, last + 1), vectors
