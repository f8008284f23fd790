"""Options of an export, validated before any work starts."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from export.int8.openvino_runner import BFLOAT16
from export.int8.variants import INT8_VARIANTS
from export.variants import COREML_VARIANTS

SKIPPABLE = ("coreml", "int8", BFLOAT16, *INT8_VARIANTS, *COREML_VARIANTS)
SPLITS = ("test", "val", "all")


@dataclass(frozen=True)
class Options:
    """Options of an export.

    Attributes:
        dynamic_batch: Leave the batch axis of the ONNX files open.
        text_encoder: Export the text tower too.
        spacings: Pixel spacings of the age table in mm at the model's resolution, ``[0.21, 0.34]``, in addition to
            those of all heads of the corpus (whatever `frames` is).
        only_spacings: Ship only `spacings`, because a full-size text tower takes long. HC18's frames are still judged
            with their own spacings.
        skip: Variants to leave out (``coreml-palette6``); ``coreml`` leaves out all of Core ML, ``int8`` both
            int8 files.
        split: Evaluation frames: "test", "val" or "all".
        frames: Largest number of evaluation frames per benchmark; None takes all.
        calibration_frames: Training frames that calibrate int8.
        gates: File of parity gates; None takes ``export/parity/gates.yaml``.
        keep_slow_int8: Keep an int8 file that is slower than float32 here, for its size.
        int8_from: Checkpoint of EXP=srkd-qat that continued this student: int8 files take its weights and ranges.

    Raises:
        ValueError: A value is invalid; the message names the option.
    """

    dynamic_batch: bool = False
    text_encoder: bool = False
    spacings: list[float | str] | None = None
    only_spacings: bool = False
    skip: Sequence[str] = ()
    split: str = "test"
    frames: int | None = None
    calibration_frames: int = 64
    gates: str | None = None
    keep_slow_int8: bool = False
    int8_from: str | None = None

    def __post_init__(self) -> None:
        for name in self.skip:
            if name not in SKIPPABLE:
                close = difflib.get_close_matches(name, SKIPPABLE, n=1)
                hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(SKIPPABLE)}"
                raise ValueError(f"--skip: unknown variant {name!r}; {hint}")
        for option in ("frames", "calibration_frames"):
            count = getattr(self, option)
            if count is not None and count < 1:
                raise ValueError(f"--{option}={count}: must be at least 1")
        if self.split not in SPLITS:
            raise ValueError(f"--split={self.split}: unknown split; choose from {', '.join(SPLITS)}")
        given = self.printed_spacings
        if self.only_spacings and not given:
            raise ValueError("--only_spacings: needs --spacings, such as --spacings=[0.21]")

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
        raise ValueError(f"--spacings: {spacing!r} is not a pixel spacing in mm; example: --spacings=[0.21]")
    return printed
