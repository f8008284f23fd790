"""Two training views of one PNG on one core: Pillow and two resizes against ours, from the file and from the cache.

The mean difference in grey levels compares views of the same fixed draw: 5 degrees, a shift of 3 %, 15 % more
brightness and 15 % less contrast.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks._material import head_records
from benchmarks._record import Row, command, interleave, make_row
from benchmarks._threads import one_thread
from benchmarks.baselines.pipeline_authors import Draw, two_views, view
from datamodules.image_reading import open_image, read_image
from datamodules.pair_sample import PairBuilder
from datamodules.record import Record
from datamodules.square_cache import SquareCache
from datamodules.transforms import Augmentation, TwoViewTransform
from models import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing

STUDENT = Preprocessing(256, IMAGENET_MEAN, IMAGENET_STD, context_length=117)
TEACHER = Preprocessing(224, CLIP_MEAN, CLIP_STD, context_length=117)


def grey_difference(path: Path, draw: Draw) -> float:
    """Return the mean difference in grey levels of both views between the authors' way and ours, for one draw."""
    transform = TwoViewTransform(STUDENT, TEACHER, Augmentation())
    assert transform._augment is not None
    affine, jitter = transform._augment.transforms
    affine.rotate = (-draw.rotation, -draw.rotation)  # torchvision turns the other way round
    affine.translate_percent = {axis: (shift, shift) for axis, shift in zip("xy", draw.shift, strict=True)}
    jitter.brightness = (1 + draw.brightness, 1 + draw.brightness)
    jitter.contrast = (1 + draw.contrast, 1 + draw.contrast)
    ours = transform(read_image(path), np.random.default_rng(0))
    image = open_image(path).convert("RGB")
    differences = []
    for tensor, contract in zip(ours, (STUDENT, TEACHER), strict=True):
        assert tensor is not None
        mean, std = (torch.tensor(v)[:, None, None] for v in (contract.mean, contract.std))
        theirs = np.asarray(view(image, contract, draw), dtype=float)
        levels = ((tensor * std + mean) * 255).permute(1, 2, 0).numpy()
        differences.append(np.abs(levels - theirs).mean())
    return float(np.mean(differences))


def _views(builder: PairBuilder, square: np.ndarray, seed: int) -> None:
    builder._transform.render(square, np.random.default_rng(seed))


def measure(quick: bool) -> list[Row]:
    count, rounds = (4, 2) if quick else (48, 3)
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        return _measure(Path(folder), count, rounds)


def _measure(folder: Path, count: int, rounds: int) -> list[Row]:
    records, what = head_records(folder / "images", count)
    builder = PairBuilder(STUDENT, TEACHER, Augmentation())
    cache = SquareCache(folder / "cache", records, builder.working_side)

    def prepare(record: Record) -> tuple[np.ndarray, tuple[int, int]]:
        image = read_image(record.image)
        return builder.prepare(image), (image.shape[0], image.shape[1])

    def authors() -> None:
        for seed, record in enumerate(records):
            two_views(record.image, STUDENT, TEACHER, Draw.random(np.random.default_rng(seed)))

    def from_file() -> None:
        for seed, record in enumerate(records):
            _views(builder, prepare(record)[0], seed)

    def from_cache() -> None:
        for seed, record in enumerate(records):
            _views(builder, cache.get(seed, record, prepare)[0], seed)

    def decode() -> None:
        for record in records:
            read_image(record.image)

    times = interleave(
        {"authors": authors, "from the PNG": from_file, "from the cache": from_cache, "decode": decode},
        rounds,
    )
    per_image = {name: values / count for name, values in times.items()}
    draw = Draw(-5.0, (0.03, 0.03), brightness=0.15, contrast=-0.15)
    grey = [grey_difference(record.image, draw) for record in records[: min(16, count)]]
    rows = [
        make_row(
            "image pipeline",
            f"two views {name}, one core",
            "times faster than Pillow with two resizes",
            times["authors"] / times[name],
            target=target,
            seconds=per_image,
            limit="PNG decode alone" if name == "from the PNG" else "",
            limit_values=times[name] / times["decode"] if name == "from the PNG" else None,
            note=f"{count} images a round: {what}",
        )
        for name, target in (("from the PNG", 2.3), ("from the cache", 5.0))
    ]
    rows.append(
        make_row(
            "image pipeline",
            "same draw: rotated 5 degrees, shifted 3 %, brightness +15 %, contrast -15 %",
            "grey levels of mean difference from the authors' way",
            grey,
            target=2.5,
            better="lower",
            note="the cache's output is bit-identical to the file's (tests/datamodules/test_square_cache.py)",
        )
    )
    return rows


if __name__ == "__main__":
    command("image_pipeline", measure, __doc__)
