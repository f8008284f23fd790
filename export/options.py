"""What an export can be asked for, checked before any work starts."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from export.int8_variants import INT8_VARIANTS
from export.openvino_runner import BFLOAT16
from export.variants import COREML_VARIANTS

SKIPPABLE = ("coreml", "int8", BFLOAT16, *INT8_VARIANTS, *COREML_VARIANTS)
SPLITS = ("test", "val", "all")


@dataclass(frozen=True)
class Options:
    """What to export.

    Attributes:
        dynamic_batch: Leave the batch axis of the ONNX files open.
        text_encoder: Export the text tower too.
        spacings: Pixel spacings of the age table in mm at the model's resolution, ``[0.21, 0.34]``, beside those of
            all heads of the corpus, whatever `frames` says.
        only_spacings: Ship the given ones alone, for a full-size text tower takes long. HC18's frames are judged with
            their own all the same.
        skip: Variants to leave out (``coreml-palette6``); ``coreml`` leaves out all of Core ML, ``int8`` both
            int8 files.
        split: Evaluation frames: "test", "val" or "all".
        frames: At most so many evaluation frames a benchmark; None takes all.
        coreml_frames: The same for Core ML's rows, whose reference is slow.
        calibration_frames: Training frames that calibrate int8.
        gates: A file of parity gates; None takes ``export/gates.yaml``.
        keep_slow_int8: Keep an int8 file that is slower than float32 here, for its size.
        int8_from: Checkpoint of EXP=srkd-qat that went on from this student: int8 files take its weights and
            the ranges of its training.

    Raises:
        ValueError: A value cannot be used; the message names the option.
    """

    dynamic_batch: bool = False
    text_encoder: bool = False
    spacings: list[float | str] | None = None
    only_spacings: bool = False
    skip: Sequence[str] = ()
    split: str = "test"
    frames: int | None = None
    coreml_frames: int = 400
    calibration_frames: int = 64
    gates: str | None = None
    keep_slow_int8: bool = False
    int8_from: str | None = None

    def __post_init__(self) -> None:
        for name in self.skip:
            if name not in SKIPPABLE:
                close = difflib.get_close_matches(name, SKIPPABLE, n=1)
                hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(SKIPPABLE)}"
                raise ValueError(f"--skip: no variant {name!r} that can be left out; {hint}")
        for option in ("frames", "coreml_frames", "calibration_frames"):
            count = getattr(self, option)
            if count is not None and count < 1:
                raise ValueError(f"--{option}={count}: give at least 1")
        if self.split not in SPLITS:
            raise ValueError(f"--split={self.split}: no such split; choose from {', '.join(SPLITS)}")
        given = self.printed_spacings
        if self.only_spacings and not given:
            raise ValueError("--only_spacings: there are none; give --spacings=[0.21]")

    @property
    def printed_spacings(self) -> list[str]:
        """`spacings` as prompts print them, ``"0.21"``, sorted.

        Raises:
            ValueError: One is not a positive number.
        """
        return sorted({_printed(spacing) for spacing in self.spacings or ()})


def _printed(spacing: float | str) -> str:
    try:
        printed = f"{float(spacing):.2f}"
    except ValueError:
        printed = "nan"
    if not (math.isfinite(float(printed)) and float(printed) > 0):
        raise ValueError(f"--spacings: {spacing!r} is no pixel spacing in mm; give --spacings=[0.21]")
    return printed
