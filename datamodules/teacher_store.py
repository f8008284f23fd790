"""What a teacher said of a fixed number of draws of every training image, on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.square_cache import create_zeros


class TeacherStore:
    """Image and text embeddings of K augmentation draws of N images, in one memory-mapped file.

    A draw is a number: pairs are a function of (seed, draw, index) alone (see `PairDataset`), so the student
    sees exactly the pictures and captions that the teacher saw (dataset reinforcement, Faghri et al., ICCV 2023;
    there the random parameters are stored, here they are drawn again).

    Args:
        folder: Where the files are, for this teacher and these data alone.
        draws: K, number of draws.
        images: N, number of training images.
        dim: D, dimension of the teacher's embeddings.
        half: Keep float16 instead of float32 numbers.
    """

    def __init__(self, folder: Path, draws: int, images: int, dim: int, half: bool = False) -> None:
        self.folder = folder
        self.draws = draws
        self.images = images
        self.dim = dim
        self.kind = np.dtype(np.float16 if half else np.float32)
        self._open: tuple[np.ndarray, np.ndarray] | None = None
        create_zeros(folder / "embeddings.bin", self.size)
        create_zeros(folder / "done.u8", draws * images)

    @property
    def size(self) -> int:
        """Bytes of the full store: K x N x 2 x D numbers."""
        return self.draws * self.images * 2 * self.dim * self.kind.itemsize

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": None}  # every worker maps the files anew

    def missing(self) -> list[tuple[int, int]]:
        """Return the (draw, index) keys that are not stored yet."""
        return [(int(draw), int(index)) for draw, index in np.argwhere(self._maps()[1] == 0)]

    def clear(self) -> None:
        """Forget everything."""
        self._maps()[1][:] = 0

    def put(self, keys: list[tuple[int, int]], image: Tensor, text: Tensor) -> None:
        """Store unit-length embeddings [B, D] and [B, D] of B keys."""
        embeddings, done = self._maps()
        draws, indices = np.array(keys).T
        embeddings[draws, indices] = torch.stack((image, text), dim=1).float().cpu().numpy()
        done[draws, indices] = 1  # last: whoever sees the mark sees the numbers

    def get(self, draw: int, index: int) -> Tensor:
        """Return the image and the text embedding of one key: [2, D], float32.

        Raises:
            KeyError: It is not stored.
        """
        embeddings, done = self._maps()
        if not done[draw, index]:
            raise KeyError(f"{self.folder}: draw {draw} of image {index} is not stored")
        return torch.from_numpy(embeddings[draw, index].astype(np.float32))

    def flush(self) -> None:
        """Write everything through to the disk, numbers before marks."""
        for array in self._maps():
            if isinstance(array, np.memmap):
                array.flush()

    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        if self._open is None:
            shape = (self.draws, self.images)
            self._open = (
                np.memmap(self.folder / "embeddings.bin", self.kind, "r+", shape=(*shape, 2, self.dim)),
                np.memmap(self.folder / "done.u8", np.uint8, "r+", shape=shape),
            )
        return self._open
