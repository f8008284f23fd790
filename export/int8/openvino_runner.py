"""OpenVINO on this machine's CPU: the runner of the int8 file, and the float32 file rounded to bfloat16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.latency.backends import OPENVINO_PRECISIONS, available
from export.parity.ledger import NOT_RUN, Row
from export.variants import Variant, Workbench

Floats = NDArray[np.float32]

BFLOAT16 = "openvino-bf16"


class OpenVinoRunner:
    """An ONNX file in OpenVINO on the CPU, frame by frame.

    Args:
        path: The file.
        side: Side of the frame.
        precision: What is not int8 in the graph computes in: ``f32`` or ``bf16``. Its own default would round to
            bfloat16 on newer processors without being asked.
    """

    def __init__(self, path: Path, side: int, precision: str = "f32") -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(str(path))
        model.reshape([1, 3, side, side])
        self._model = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})

    def __call__(self, pixels: Floats) -> Floats:
        """Map pixel values [N, 3, S, S] to embeddings [N, D]."""
        return np.concatenate([self._model({0: frame[None]})[0] for frame in pixels])


def enter_bfloat16(bench: Workbench) -> None:
    """Enter the float32 ONNX file in bfloat16 into the ledger, to be judged by the task; it is no file of its own.

    Where OpenVINO is absent or the processor has no bfloat16, its row says NOT RUN and why.
    """
    how, gate = "OpenVINO, CPU, bfloat16, on image_encoder.onnx", "compressed"
    state = available()[BFLOAT16]
    if state != "yes":
        bench.not_run.append(Row(BFLOAT16, how, gate, NOT_RUN, state))
        return
    run = OpenVinoRunner(bench.folder / "image_encoder.onnx", bench.side, OPENVINO_PRECISIONS[BFLOAT16])
    bench.variants.append(Variant(BFLOAT16, how, gate, run))
