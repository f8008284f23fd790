"""Two training views of one PNG on one core: Pillow with two resizes, and ours from the file and from the cache.

With the same draw their mean difference is at most 2.5 grey levels, and the cache's output is bit-identical to the
file's; tests assert both.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks._authors import Draw, two_views
from benchmarks._material import head_records
from benchmarks._record import Row, interleave
from datamodules.pairs.image_reading import read_image
from datamodules.pairs.sample import PairBuilder
from datamodules.pairs.stores import Square, SquareCache
from datamodules.pairs.transforms import Augmentation
from datamodules.record import Record
from models import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing

STUDENT = Preprocessing(256, IMAGENET_MEAN, IMAGENET_STD, context_length=117)
TEACHER = Preprocessing(224, CLIP_MEAN, CLIP_STD, context_length=117)
TARGETS = {"from the PNG": 2.3, "from the cache": 5.0}


def measure(quick: bool) -> list[Row]:
    count, rounds = (4, 2) if quick else (48, 3)
    torch.set_num_threads(1)  # as in a data loader's worker; the stage has this process to itself
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        records, what = head_records(Path(name) / "images", count)
        builder = PairBuilder(STUDENT, TEACHER, Augmentation())
        alone = PairBuilder(STUDENT, TEACHER, Augmentation(), student_only=True)
        cache = SquareCache(Path(name) / "cache", records, builder.working_side)
        pictures = SquareCache(Path(name) / "cache", records, STUDENT.image_size)

        def prepare(record: Record) -> Square:
            image = read_image(record.image)
            return builder.prepare(image), (image.shape[0], image.shape[1])

        def ours(square: np.ndarray, seed: int) -> None:
            builder.render(square, np.random.default_rng(seed))

        def drawn(record: Record, seed: int) -> Square:
            square, shape = cache.get(seed, 0, partial(prepare, record))
            return alone.draw(square, np.random.default_rng(seed), 1.0)[0], shape

        def kept(record: Record, seed: int) -> Square:
            return pictures.get(seed, 0, partial(drawn, record, seed))

        def authors(record: Record, seed: int) -> None:
            two_views(record.image, (STUDENT, TEACHER), Draw.random(np.random.default_rng(seed)))

        numbered = list(enumerate(records))
        ways = {
            "authors": lambda: [authors(record, i) for i, record in numbered],
            "from the PNG": lambda: [ours(prepare(record)[0], i) for i, record in numbered],
            "from the cache": lambda: [
                ours(cache.get(i, 0, partial(prepare, record))[0], i) for i, record in numbered
            ],
            "drawn": lambda: [alone.normalised([drawn(record, i)[0]]) for i, record in numbered],
            "kept": lambda: [alone.normalised([kept(record, i)[0]]) for i, record in numbered],
            "decode": lambda: [read_image(record.image) for record in records],
        }
        times = {way: seconds / count for way, seconds in interleave(ways, rounds).items()}
    faster, note = "times faster than Pillow with two resizes", f"{count} images a round: {what}"
    ratios = {way: times["authors"] / times[way] for way in TARGETS}
    rows = [
        Row("image pipeline", f"two views {way}, one core", faster, ratios[way], target, seconds=times, note=note)
        for way, target in TARGETS.items()
    ]  # fmt: skip
    case, slower = "student's view of a draw that was kept, one core", "times faster than drawing it again"
    rows.append(
        Row(
            "image pipeline",
            case,
            slower,
            times["drawn"] / times["kept"],
            seconds=times,
            note=f"{note}, in the cache",
        )
    )
    rows[0].limit, rows[0].times_limit = "PNG decode alone", [*(times["from the PNG"] / times["decode"])]
    return rows
