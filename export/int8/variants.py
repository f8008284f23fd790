"""The int8 forms of the image encoder: for ONNX Runtime and for OpenVINO, calibrated or trained."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from export.graphs.contract import EMBEDDING_NAME
from export.graphs.onnx_graph import OnnxRunner
from export.graphs.text_artifact import text_reference
from export.int8.onnx_int8 import quantise
from export.int8.openvino_runner import OpenVinoRunner
from export.int8.trained import write_trained_int8
from export.variants import Run, Variant, Workbench
from models import DualEncoder, QuantisedStudent

Floats = NDArray[np.float32]

INT8_VARIANTS = {"onnx-int8": False, "openvino-int8": True}  # name -> grouped convolutions too
NO_OPENVINO = "openvino is not installed: uv pip install --python .venv openvino"
SAME_TEXT = 1e-5


def runs_here(name: str) -> bool:
    """Tell whether the runtime of an int8 variant is installed."""
    return name != "openvino-int8" or find_spec("openvino") is not None


def require_kin(student: DualEncoder, trained: QuantisedStudent) -> None:
    """Check that a student trained with int8 in the loop can use the heads of a float student.

    Raises:
        ValueError: It expects other inputs, or its text tower is another one.
    """
    if trained.preprocessing != student.preprocessing:
        raise ValueError("--int8_from: it was made for another preprocessing; train it from this CKPT")
    difference = np.abs(text_reference(student)[1] - text_reference(trained)[1]).max()
    if not difference <= SAME_TEXT:
        raise ValueError("--int8_from: its text tower is another one; train it from this CKPT")


def write_int8_variants(
    bench: Workbench, names: Sequence[str], frames: Floats | None, trained: QuantisedStudent | None = None
) -> None:
    """Write int8 copies of the encoder.

    Args:
        bench: The workbench; the float32 encoder is written.
        names: Which of `INT8_VARIANTS`.
        frames: Calibration frames, pixel values [N, 3, S, S]; not used with `trained`.
        trained: The same student after training with int8 in the loop: its weights and ranges are taken.

    Raises:
        ValueError: There are neither frames nor a trained student.
    """
    if trained is None and frames is None:
        raise ValueError("int8 needs calibration frames, or a student that was trained with int8 in the loop")
    for name in names:
        openvino = name == "openvino-int8"
        path = bench.folder / f"image_encoder_int8{'_openvino' if openvino else ''}.onnx"
        how = f"{'OpenVINO' if openvino else 'ONNX Runtime'}, CPU"
        # A trained file is written with a batch of one; a calibrated one keeps the float32 file's.
        batch = 1 if trained is not None else bench.artifacts["onnx-fp32"]["batch"]
        facts: dict[str, object] = {"kind": "onnx", "batch": batch, "output": EMBEDDING_NAME}
        if trained is not None:
            facts["captured_by"] = write_trained_int8(
                trained,
                path,
                grouped_convolutions=INT8_VARIANTS[name],
                metadata=bench.metadata,
                warnings=bench.warnings,
            )
            facts["ranges"], how = "trained", f"{how}; trained with int8 in the loop"
        elif frames is not None:
            quantise(
                bench.folder / "image_encoder.onnx",
                path,
                frames,
                grouped_convolutions=INT8_VARIANTS[name],
                metadata=bench.metadata,
                warnings=bench.warnings,
            )
            facts["captured_by"] = bench.artifacts["onnx-fp32"]["captured_by"]
            facts["ranges"] = f"calibrated on {len(frames)} frames"
        run: Run = OpenVinoRunner(path, bench.side) if openvino else OnnxRunner(path)
        bench.add(Variant(name, how, "compressed", run), path, **facts)
