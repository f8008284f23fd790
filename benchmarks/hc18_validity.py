"""HC18 validity: the text side of all 999 images, re-encoded at each image against once a distinct spacing.

Timed is a sample of prompts; the whole is scaled by the exact counts of encoded prompts, 999 x 875 against
(distinct spacings) x 875. The limit is the tower alone over ready tokens.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._material import FRAME, published_student, published_teacher
from benchmarks._record import Row, command, interleave, make_row
from benchmarks.baselines import evaluation_authors
from datamodules.captions import SPACING, render_spacing
from datamodules.hc18 import HC18_TABLE
from datamodules.protocol import Protocol
from models import DualEncoder
from models.zero_shot import age_prompts, encode_prompts, prompts_at_once

IMAGES = 999
DISTINCT = {224: 84, 256: 77}
"""Distinct printed spacings of the 999 images by the model's size; counted anew where HC18_ROOT has all of them."""
TARGETS = {"student": 18.0, "teacher": 33.0}


def count_spacings(image_size: int) -> int:
    """Return the number of distinct printed spacings at one image size."""
    root = os.environ.get("HC18_ROOT")
    if not root:
        return DISTINCT[image_size]
    with (Path(root) / HC18_TABLE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != IMAGES:
        return DISTINCT[image_size]
    printed = {
        render_spacing(
            SPACING,
            width=FRAME[0],
            height=FRAME[1],
            image_size=image_size,
            pixel_size_mm=float(next(value for name, value in row.items() if name.startswith("pixel"))),
        )
        for row in rows
    }
    return len(printed)


def tower_alone(model: DualEncoder, prompts: list[str]) -> Tensor:
    """Run the tower over ready tokens, in our batches."""
    return torch.cat([model.text_features(tokens) for tokens in _tokens(model, prompts)])


_READY: dict[int, list[Tensor]] = {}


def _tokens(model: DualEncoder, prompts: list[str]) -> list[Tensor]:
    if id(model) not in _READY:
        _READY[id(model)] = list(model.tokenize(prompts).split(prompts_at_once(model)))
    return _READY[id(model)]


@torch.no_grad()
def measure_model(name: str, model: DualEncoder, count: int, rounds: int) -> Row:
    prompts = age_prompts(Protocol.load().biometry, "0.42")[:count]
    times = interleave(
        {
            "authors": lambda: evaluation_authors.encode_prompts(model, prompts),
            "ours": lambda: encode_prompts(model, prompts),
            "tower alone": lambda: tower_alone(model, prompts),
        },
        rounds,
    )
    difference = evaluation_authors.encode_prompts(model, prompts) - encode_prompts(model, prompts)
    spacings = count_spacings(model.preprocessing.image_size)
    whole = 875 / len(prompts)
    return make_row(
        "HC18 validity",
        f"{name}, {IMAGES} images, {spacings} distinct spacings",
        "times faster than re-encoding at each image",
        times["authors"] / times["ours"] * IMAGES / spacings,
        target=TARGETS[name],
        seconds={
            "authors": times["authors"] * whole * IMAGES,
            "ours": times["ours"] * whole * spacings,
        },
        limit="the tower alone over the distinct prompts",
        limit_values=times["ours"] / times["tower alone"],
        note=(
            f"{len(prompts)} prompts timed a round and scaled by counts; embeddings differ by at most "
            f"{float(difference.abs().max()):.0e}"
        ),
    )


def measure(quick: bool) -> list[Row]:
    count, rounds = (8, 2) if quick else (64, 5)
    return [
        measure_model("student", published_student(quick), count, rounds),
        measure_model("teacher", published_teacher(quick, image_tower=False), count, max(2, rounds - 2)),
    ]


if __name__ == "__main__":
    command("hc18_validity", measure, __doc__)
