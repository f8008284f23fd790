"""Evaluation frames as an app sees them, plain pixel values, with the labels of their benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules import FetalDataModule, Record
from datamodules.evaluation.dataset import EvaluationDataset, collate_evaluation, printed_spacing
from datamodules.pairs.image_reading import read_image
from datamodules.pairs.loaders import PlainErrorLoader
from metrics.benchmarks import BENCHMARKS
from models import Preprocessing
from models.student.onnx_files import Run


@dataclass(frozen=True)
class EvaluationFrames:
    """The distinct frames of all benchmarks, each read once by `workers` processes.

    `rows` is benchmark -> numbers of its `records`, in the benchmark's order.
    """

    preprocessing: Preprocessing
    records: list[Record]
    rows: dict[str, list[int]]
    workers: int
    batch_size: int

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """Yield padded and resized frames as pixel values [B, 3, S, S], 0 to 255, float32, in order."""
        # Mean 0 and standard deviation 1 turn the loader's normalisation into pixel / 255, which is undone
        # exactly: all 256 values round back to themselves.
        plain = replace(self.preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        loader = PlainErrorLoader(
            EvaluationDataset(self.records, plain),
            batch_size=self.batch_size,
            collate_fn=collate_evaluation,
            num_workers=self.workers,
        )
        for batch in loader:
            yield (batch["image"] * 255).round().numpy()

    def whole(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames as they are, RGB [H, W, 3], in order."""
        for record in self.records:
            image = read_image(record.image)
            yield image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)

    def labels(self, benchmark: str) -> list[str]:
        """Return the true class of each frame of a classification benchmark."""
        chosen = [self.records[row] for row in self.rows[benchmark]]
        return [str(BENCHMARKS[benchmark].label_of(record)) for record in chosen]

    def head_circumferences_mm(self, benchmark: str) -> Tensor:
        """Return the true head circumferences of a biometry benchmark's frames, float64."""
        return torch.tensor([self.records[row].hc_mm for row in self.rows[benchmark]], dtype=torch.float64)

    def embedded_heads(self, embed: Run | None) -> tuple[Tensor, list[str]]:
        """Return embeddings [N, D] and printed spacings of all biometry frames; of none without `embed`."""
        printed = {
            row: one
            for name, own in self.spacings().items()
            for row, one in zip(self.rows[name], own, strict=True)
        }
        if embed is None or not printed:
            return torch.empty(0, 0), []
        heads = replace(self, records=[self.records[row] for row in printed], rows={})
        found = np.concatenate([embed(pixels) for pixels in heads.batches()])
        return torch.from_numpy(found), list(printed.values())

    def spacings(self) -> dict[str, list[str]]:
        """Return the printed pixel spacing of each frame of each biometry benchmark."""
        return {
            name: [printed_spacing(self.records[row], self.preprocessing) for row in rows]
            for name, rows in self.rows.items()
            if BENCHMARKS[name].kind == "biometry"
        }


def corpus_spacings(data: FetalDataModule, preprocessing: Preprocessing) -> list[str]:
    """Return the distinct printed spacings of all heads of a corpus, of whatever split, sorted."""
    biometry = [name for name in data.benchmarks if BENCHMARKS[name].kind == "biometry"]
    heads = (record for name in biometry for record in data.evaluation_records(name, "all"))
    # Training accepts training images without a pixel size: only the scored ones need an age.
    return sorted({printed_spacing(one, preprocessing) for one in heads if one.pixel_size_mm is not None})


def evaluation_frames(
    data: FetalDataModule, preprocessing: Preprocessing, split: str = "test", limit: int | None = None
) -> EvaluationFrames:
    """Collect the frames of every benchmark of a corpus, at most `limit` of each, spread evenly over it.

    Raises:
        ValueError: The corpus has no benchmark, or no frame of one in this split.
    """
    if not data.benchmarks:
        raise ValueError(
            f"{type(data).__name__}: no benchmark to judge an export by; make export CKPT=... DATA=phantom takes "
            "simulated images, DATA=hc18 and DATA=planes public ones"
        )
    chosen = {name: _thinned(data.evaluation_records(name, split), limit) for name in data.benchmarks}
    distinct = {(record.corpus, record.name): record for found in chosen.values() for record in found}
    position = {key: number for number, key in enumerate(distinct)}
    rows = {
        name: [position[record.corpus, record.name] for record in found] for name, found in chosen.items()
    }
    records = list(distinct.values())
    return EvaluationFrames(preprocessing, records, rows, data.num_workers, data.evaluation_batch_size)


def calibration_pixels(
    data: FetalDataModule, preprocessing: Preprocessing, count: int
) -> NDArray[np.float32]:
    """Return at most `count` training frames as pixel values [N, 3, S, S].

    Where the training images are in shards, validation frames of the benchmarks take their place.

    Raises:
        ValueError: There are neither.
    """
    frames_of = data.split("train") or [r for name in data.benchmarks for r in data.candidates(name, "val")]
    if not frames_of:
        raise ValueError("int8: no frame to calibrate on; leave int8 out: --skip=int8")
    records = _thinned(frames_of, count)
    frames = EvaluationFrames(preprocessing, records, {}, 0, data.evaluation_batch_size)
    return np.concatenate(list(frames.batches()))


def _thinned(records: list[Record], limit: int | None) -> list[Record]:
    if limit is None or len(records) <= limit:
        return records
    return [records[round(place)] for place in np.linspace(0, len(records) - 1, limit)]
