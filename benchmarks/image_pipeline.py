"""Two training views of one PNG on one core: Pillow with two resizes, and ours from the file and from the cache.

The mean difference in grey levels compares the views of one fixed draw: 5 degrees, a shift of 3 %, 15 % more
brightness and 15 % less contrast.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks._material import head_records
from benchmarks._record import Row, command, interleave, make_row, one_thread
from benchmarks.baselines.pipeline_authors import Draw, two_views, view
from datamodules.pairs.image_reading import open_image, read_image
from datamodules.pairs.sample import PairBuilder
from datamodules.pairs.stores import SquareCache
from datamodules.pairs.transforms import Augmentation, TwoViewTransform
from datamodules.record import Record
from models import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing

STUDENT = Preprocessing(256, IMAGENET_MEAN, IMAGENET_STD, context_length=117)
TEACHER = Preprocessing(224, CLIP_MEAN, CLIP_STD, context_length=117)
TARGETS = {"from the PNG": 2.3, "from the cache": 5.0}


def grey_difference(path: Path, draw: Draw) -> float:
    """Return the mean difference in grey levels between the baseline's two views and ours, for one draw."""
    transform = TwoViewTransform(STUDENT, TEACHER, Augmentation())
    assert transform._augment is not None
    affine, jitter = transform._augment.transforms
    affine.rotate = (-draw.rotation, -draw.rotation)  # torchvision rotates in the other direction
    affine.translate_percent = {axis: (shift, shift) for axis, shift in zip("xy", draw.shift, strict=True)}
    jitter.brightness = (1 + draw.brightness, 1 + draw.brightness)
    jitter.contrast = (1 + draw.contrast, 1 + draw.contrast)
    ours = transform(read_image(path), np.random.default_rng(0))
    image = open_image(path).convert("RGB")
    differences = []
    for tensor, contract in zip(ours, (STUDENT, TEACHER), strict=True):
        assert tensor is not None
        mean, std = (torch.tensor(v)[:, None, None] for v in (contract.mean, contract.std))
        levels = ((tensor * std + mean) * 255).permute(1, 2, 0).numpy()
        differences.append(np.abs(levels - np.asarray(view(image, contract, draw), dtype=float)).mean())
    return float(np.mean(differences))


def measure(quick: bool) -> list[Row]:
    count, rounds = (4, 2) if quick else (48, 3)
    with one_thread(), tempfile.TemporaryDirectory() as name:
        records, what = head_records(Path(name) / "images", count)
        builder = PairBuilder(STUDENT, TEACHER, Augmentation())
        cache = SquareCache(Path(name) / "cache", records, builder.working_side)

        def prepare(record: Record) -> tuple[np.ndarray, tuple[int, int]]:
            image = read_image(record.image)
            return builder.prepare(image), (image.shape[0], image.shape[1])

        def ours(square: np.ndarray, seed: int) -> None:
            builder.render(square, np.random.default_rng(seed))

        def authors(record: Record, seed: int) -> None:
            two_views(record.image, STUDENT, TEACHER, Draw.random(np.random.default_rng(seed)))

        ways = {
            "authors": lambda: [authors(record, i) for i, record in enumerate(records)],
            "from the PNG": lambda: [ours(prepare(record)[0], i) for i, record in enumerate(records)],
            "from the cache": lambda: [
                ours(cache.get(i, record, prepare)[0], i) for i, record in enumerate(records)
            ],
            "decode": lambda: [read_image(record.image) for record in records],
        }
        times = {way: seconds / count for way, seconds in interleave(ways, rounds).items()}
        draw = Draw(-5.0, (0.03, 0.03), brightness=0.15, contrast=-0.15)
        grey = [grey_difference(record.image, draw) for record in records[: min(16, count)]]
    limits = {
        "from the PNG": {"limit": "PNG decode alone", "limit_values": times["from the PNG"] / times["decode"]}
    }
    rows = [
        make_row(
            "image pipeline", f"two views {way}, one core", "times faster than Pillow with two resizes",
            times["authors"] / times[way], target=target, seconds=times, note=f"{count} images a round: {what}",
            **limits.get(way, {}),
        )
        for way, target in TARGETS.items()
    ]  # fmt: skip
    return [
        *rows,
        make_row(
            "image pipeline", "same draw: rotated 5 degrees, shifted 3 %, brightness +15 %, contrast -15 %",
            "grey levels of mean difference from the authors' way", grey, target=2.5, better="lower",
            note="the cache's output is bit-identical to the file's (tests/datamodules/pairs/test_stores.py)",
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    command("image_pipeline", measure, __doc__)
