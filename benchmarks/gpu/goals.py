"""Rows with a target, before they are measured."""

from __future__ import annotations

from benchmarks._record import Row

STEP, LOSS, TRAINING = "GPU step", "GPU loss", "GPU training"
FASTER, PRODUCTS = "times the images/s of the authors' way", "of the card's measured bf16 matrix products"
BARE = "of the bare step's images/s"
GOALS = {
    "tests": Row("GPU tests", "pytest -m gpu", "of the tests pass", [], 1.0),
    "live": Row(STEP, "live teacher, compiled", FASTER, [], 1.5),
    "cached": Row(STEP, "teacher cache, compiled", FASTER, [], 3.0),
    "share": Row(STEP, "live teacher, compiled", PRODUCTS, [], 0.45),
    "loss": Row(LOSS, "fused, batch 16,384, float32", "times faster than the authors' way", [], 4.0),
    "loss memory": Row(LOSS, "chunked, batch 65,536", "GB at the peak", [], 3.0, "lower"),
    "loss pair": Row(LOSS, "chunked, batch 65,536", "times the seconds a pair at 16,384", [], 1.0, "lower"),
    "shards": Row(TRAINING, "PNG shards", BARE, [], 0.9),
    "squares": Row(TRAINING, "image files, cached squares", BARE, [], 0.9),
    "validity": Row("GPU evaluation", "HC18 validity, student, float32", "s an epoch", [], 10.0, "lower"),
}  # fmt: skip
