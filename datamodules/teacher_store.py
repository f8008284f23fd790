"""Store of teacher embeddings on disk: K augmentation draws of every training image."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.row_store import RowStore


class TeacherStore:
    """Image and text embeddings of K augmentation draws of N images, in one file.

    A draw is a number: pairs are a function of (seed, draw, index) alone (see `PairDataset`), so the student
    sees exactly the pictures and captions that the teacher saw (dataset reinforcement, Faghri et al., ICCV 2023;
    there the random parameters are stored, here they are drawn again).

    Args:
        path: The file, for this teacher and these data alone.
        draws: K, number of draws.
        images: N, number of training images.
        dim: D, dimension of the teacher's embeddings.
        half: Keep float16 instead of float32 numbers.

    Raises:
        OSError: The file cannot be created, or the disk has no space for all embeddings.
    """

    def __init__(self, path: Path, draws: int, images: int, dim: int, half: bool = False) -> None:
        self.draws = draws
        self.images = images
        self.dim = dim
        self.kind = np.dtype(np.float16 if half else np.float32)
        self.rows = RowStore(path, draws * images, 2 * dim * self.kind.itemsize)

    def missing(self) -> list[tuple[int, int]]:
        """Return the (draw, index) keys that are not stored or whose row is damaged, in order."""
        return [key for key in product(range(self.draws), range(self.images)) if self._read(*key) is None]

    def put(self, keys: list[tuple[int, int]], image: Tensor, text: Tensor) -> None:
        """Store unit-length embeddings [B, D] and [B, D] of B keys."""
        numbers = torch.stack((image, text), dim=1).float().cpu().numpy().astype(self.kind)
        for (draw, index), row in zip(keys, numbers, strict=True):
            self.rows.write(draw * self.images + index, row.tobytes())

    def get(self, draw: int, index: int) -> Tensor:
        """Return the image and the text embedding of one key: [2, D], float32.

        Raises:
            ValueError: It is not stored, or its row is damaged.
        """
        row = self._read(draw, index)
        if row is None:
            raise ValueError(
                f"{self.rows.path}: draw {draw} of image {index} is not stored; start the run again to embed it"
            )
        numbers = np.frombuffer(row, self.kind).reshape(2, self.dim)
        return torch.from_numpy(numbers.astype(np.float32))

    def _read(self, draw: int, index: int) -> bytes | None:
        return self.rows.read(draw * self.images + index)
