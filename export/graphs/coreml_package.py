"""Convert a module to a Core ML ``mlprogram`` that takes camera frames, and compress its weights.

Conversion works on Linux; prediction needs macOS or iOS (see `export.parity.verify_coreml`).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from export.graphs.contract import EMBEDDING_NAME, INPUT_NAME, METADATA_LICENCE
from export.graphs.onnx_graph import EXPORTED, TRACED, collected_warnings

LABEL_NAME = "label"
# Rounding these to half precision would cost digits of the embedding's direction and, in the softmax, of
# small probabilities. They are a few hundred multiplications.
FULL_PRECISION = (
    "reduce_l2_norm",
    "reduce_sum_square",
    "rsqrt",
    "sqrt",
    "maximum",
    "tile",
    "real_div",
    "softmax",
)


@dataclass(frozen=True)
class Compression:
    """Smaller weights of a Core ML package; the arithmetic stays in float16.

    Attributes:
        bits: Bits a weight.
        mode: ``kmeans``, a look-up table of 2 ** bits values, or ``linear_symmetric`` (8 bits), one scale a channel.
    """

    bits: int
    mode: Literal["kmeans", "linear_symmetric"]


COMPRESSIONS = {
    "palette8": Compression(8, "kmeans"),
    "palette6": Compression(6, "kmeans"),
    "int8": Compression(8, "linear_symmetric"),
}
"""Variants of the image encoder with smaller weights, by name."""


def convert(
    module: nn.Module,
    example: Tensor,
    name: str,
    settings: Callable[[], Mapping[str, Any]],
    warnings: list[str],
) -> tuple[Any, str]:
    """Capture a module and convert it to a Core ML model.

    `torch.export` with its decompositions applied comes first: tracing a FastViT fails in coremltools 9.0
    with numpy 2.4. Tracing is the fall-back, for a module that cannot be exported and for one whose exported
    operators coremltools does not know.

    Args:
        module: In eval mode, one tensor in and one out.
        example: An input.
        name: What is being written, for messages.
        settings: Makes the arguments of ``coremltools.convert``, again for each try.
        warnings: Receives why the first way failed, if it did.

    Returns:
        The model, and ``torch.export`` or ``torch.jit.trace``.

    Raises:
        ValueError: Both ways failed.
    """
    import coremltools as ct

    with torch.no_grad():
        try:
            program = torch.export.export(module, (example,)).run_decompositions({})
            return ct.convert(program, **settings()), EXPORTED
        except Exception as error:  # any failure of exporter or converter has the same remedy
            exported = _reason(error)
            warnings.append(f"{name}: torch.export failed, traced instead: {exported}")
        try:
            return ct.convert(torch.jit.trace(module, example), **settings()), TRACED
        except Exception as error:
            raise ValueError(
                f"{name}: Core ML cannot be written, neither by {EXPORTED} ({exported}) nor by {TRACED} "
                f"({_reason(error)}); leave it out with --skip=coreml"
            ) from error


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def write_package(
    module: nn.Module,
    path: Path,
    *,
    side: int,
    gray: bool = False,
    half: bool = True,
    labels: Sequence[str] | None = None,
    metadata: Mapping[str, str],
    warnings: list[str],
) -> str:
    """Convert a `PixelEncoder` or `PixelClassifier` to a Core ML package for iOS 17 and later.

    The input is an image (a ``CVPixelBuffer`` in an app); its normalisation is inside the graph, because
    Core ML's own knows one scale for all three channels only.

    Args:
        module: In eval mode.
        path: The ``.mlpackage`` to write.
        side: Side of the square frame, in pixels.
        gray: Take single-channel frames.
        half: Compute in float16, the Neural Engine's only format, except normalisation and softmax.
        labels: Class names of a classifier; None for an encoder.
        metadata: Texts for the package's metadata.
        warnings: Receives the converter's warnings.

    Returns:
        The way of capture (see `convert`).

    Raises:
        ValueError: The module cannot be converted.
    """
    shape = (1, 1 if gray else 3, side, side)
    with _quiet_coremltools(warnings):
        import coremltools as ct

        classes = len(labels or ())

        def in_half(operation: Any) -> bool:
            if operation.op_type in FULL_PRECISION and len(operation.outputs[0].shape) <= 2:
                return False
            head = classes and operation.op_type in ("linear", "matmul")
            return not (head and operation.outputs[0].shape[-1] == classes)

        precision: Any = (
            ct.transform.FP16ComputePrecision(op_selector=in_half) if half else ct.precision.FLOAT32
        )
        layout = ct.colorlayout.GRAYSCALE if gray else ct.colorlayout.RGB

        def settings() -> dict[str, Any]:
            target: dict[str, Any] = {"outputs": [ct.TensorType(name=EMBEDDING_NAME, dtype=np.float32)]}
            if labels is not None:
                target = {
                    "classifier_config": ct.ClassifierConfig(list(labels), predicted_feature_name=LABEL_NAME)
                }
            return target | {
                "inputs": [ct.ImageType(name=INPUT_NAME, shape=shape, color_layout=layout)],
                "convert_to": "mlprogram",
                "minimum_deployment_target": ct.target.iOS17,
                "compute_precision": precision,
                "skip_model_load": True,
            }

        model, way = convert(module, torch.rand(shape) * 255, path.name, settings, warnings)
        model.short_description = (
            "Fetal-ultrasound image encoder" if labels is None else "Fetal-ultrasound classifier"
        )
        model.input_description[INPUT_NAME] = f"{'Gray' if gray else 'RGB'} frame, {side} x {side} pixels"
        model.license = metadata.get(METADATA_LICENCE, "")
        model.user_defined_metadata.update(metadata)
        model.save(str(path))
    return way


def compress_package(source: Path, target: Path, compression: Compression, warnings: list[str]) -> None:
    """Write a copy of a package with smaller weights.

    Args:
        source: The float16 package.
        target: The package to write.
        compression: Size and kind of the weights.
        warnings: Receives coremltools' warnings.
    """
    with _quiet_coremltools(warnings):
        import coremltools as ct
        import coremltools.optimize.coreml as optimize

        model = ct.models.MLModel(str(source), skip_model_load=True)
        if compression.mode == "linear_symmetric":
            linear = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8")
            smaller = optimize.linear_quantize_weights(
                model, optimize.OptimizationConfig(global_config=linear)
            )
        else:
            palette = optimize.OpPalettizerConfig(nbits=compression.bits, mode=compression.mode)
            smaller = optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=palette))
        smaller.save(str(target))


@contextlib.contextmanager
def _quiet_coremltools(warnings: list[str]) -> Iterator[None]:
    """Record what coremltools says instead of printing it, progress bars included."""
    own = logging.getLogger("coremltools")
    handlers, propagate = own.handlers[:], own.propagate
    with collected_warnings(warnings), contextlib.redirect_stderr(io.StringIO()), np.errstate(all="ignore"):
        import coremltools  # noqa: F401 - its import alone warns

        own.handlers, own.propagate = [], True
        try:
            yield
        finally:
            own.handlers, own.propagate = handlers, propagate
    # Away from macOS these say only that nothing can be predicted here, which the ledger states by itself.
    warnings[:] = [line for line in warnings if "Failed to load _ML" not in line]
