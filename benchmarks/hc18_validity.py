"""HC18 validity: the text side of all 999 images, re-encoded at each image against once per distinct spacing.

Timed are the 175 prompts of one template, which the authors encode in one batch. The whole is scaled by the exact
counts of encoded prompts: 999 x 875 against (distinct spacings) x 875. The limit is the arithmetic of our towers at
the float32 matmul peak of the machine, measured in the same turns.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import _authors
from benchmarks._material import STUDENT, TEACHER, published
from benchmarks._record import Row, interleave
from datamodules.evaluation.protocol import Protocol
from export.latency.backends import load
from export.latency.machine import FLOAT32, matmul_gflops, matmul_specs
from metrics import AGES_DAYS
from models import DualEncoder
from models.zero_shot import age_prompts, encode_prompts, prompts_at_once

IMAGES = 999
DISTINCT = {224: 84, 256: 77}  # distinct printed spacings of the 999 images, by the model's image size
TARGETS = {"student": 18.0, "teacher": 33.0}
TEMPLATES = 5
PRODUCTS = 10  # matrix products per turn


@torch.no_grad()
def measure_model(name: str, model: DualEncoder, count: int, rounds: int) -> Row:
    """Return the row of one model, timed on `count` prompts."""
    prompts = age_prompts(Protocol.load().biometry, "0.42")[:count]
    # Also warms both ways.
    few = _authors.encode_prompts(model, prompts[:8]) - encode_prompts(model, prompts[:8])
    product = load(matmul_specs()[f"matmul-{FLOAT32}"] | {"threads": torch.get_num_threads()})
    product()
    ways = {
        "authors": lambda: _authors.encode_prompts(model, prompts),
        "ours": lambda: encode_prompts(model, prompts),
        "matmul": lambda: [product() for _ in range(PRODUCTS)],
    }
    times = interleave(ways, rounds, warm=False)
    part = prompts[: prompts_at_once(model, prompts[0])]
    with FlopCounterMode(display=False) as counter:
        model.text_features(model.tokenize(part))
    gflops = counter.get_total_flops() / 1e9 * len(prompts) / len(part)
    peaks = np.array([matmul_gflops(1e3 * seconds / PRODUCTS) for seconds in times["matmul"]])
    at_peak = gflops / peaks
    spacings = DISTINCT[model.preprocessing.image_size]
    whole = len(AGES_DAYS) * TEMPLATES / len(prompts)
    return Row(
        "HC18 validity", f"{name}, {IMAGES} images, {spacings} distinct spacings",
        "times faster than re-encoding at each image", times["authors"] / times["ours"] * IMAGES / spacings,
        target=TARGETS[name],
        seconds={"authors": times["authors"] * whole * IMAGES, "ours": times["ours"] * whole * spacings},
        limit="what float32 matrix products alone would take", times_limit=times["ours"] / at_peak,
        note=f"{len(prompts)} prompts timed a round and scaled by counts; "
        f"at {np.median(at_peak / times['ours']):.0%} of the float32 matmul peak of "
        f"{np.median(peaks):.0f} GFLOP/s; embeddings differ by at most {float(few.abs().max()):.0e}",
    )  # fmt: skip


def measure(quick: bool) -> list[Row]:
    count, rounds = (8, 1) if quick else (len(AGES_DAYS), 2)  # a turn takes 50 s on two cores
    return [
        measure_model("student", published(STUDENT, quick), count, rounds),
        measure_model("teacher", published(TEACHER, quick, vision_layers=1), count, rounds),
    ]
