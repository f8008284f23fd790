"""Write Core ML packages (``mlprogram``) that take camera frames, and compress their weights.

Conversion works on Linux; prediction needs macOS or iOS (see `export.parity.verify_coreml`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from export.graphs.contract import EMBEDDING_NAME, INPUT_NAME, METADATA_LICENCE
from models.files import package_versions
from models.messages import error_line

LABEL_NAME = "label"
# Rounding these to half precision would cost digits of the embedding's direction and, in the softmax, of
# small probabilities. They are a few hundred multiplications.
FULL_PRECISION = (
    "reduce_l2_norm", "reduce_sum_square", "rsqrt", "sqrt", "maximum", "tile", "real_div", "softmax"
)  # fmt: skip
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """Interface and precision of a Core ML package for frames of `side` pixels and embeddings of `dim` numbers.

    `half` computes in float16, the Neural Engine's only format, except normalisation and softmax. `gray` takes
    single-channel frames. `labels` are the class names of a classifier, None for an encoder.
    """

    side: int
    dim: int
    gray: bool = False
    half: bool = True
    labels: tuple[str, ...] | None = None

    def in_half(self, operation: Any) -> bool:
        """Return whether an operator is computed in float16; a classifier's product with its classes is not."""
        shape = operation.outputs[0].shape
        if operation.op_type in FULL_PRECISION and len(shape) <= 2:
            return False
        product = self.labels and operation.op_type in ("linear", "matmul")
        return not (product and shape[-1] == len(self.labels or ()))


@dataclass(frozen=True)
class Compression:
    """Smaller weights of a Core ML package; the arithmetic stays in float16.

    ``kmeans`` is a look-up table of 2 ** bits values, ``linear_symmetric`` (8 bits) one scale a channel.
    """

    bits: int
    mode: Literal["kmeans", "linear_symmetric"]


COMPRESSIONS = {
    "palette8": Compression(8, "kmeans"),
    "palette6": Compression(6, "kmeans"),
    "int8": Compression(8, "linear_symmetric"),
}
"""Variants of the image encoder with smaller weights, by name."""


def coremltools() -> Any:
    """Import coremltools, with its messages sent to the root logger like those of other libraries."""
    import coremltools as ct

    own = logging.getLogger("coremltools")
    own.handlers, own.propagate = [], True
    return ct


def write_package(module: nn.Module, path: Path, package: Package, metadata: Mapping[str, str]) -> None:
    """Convert a `PixelEncoder` or `PixelClassifier` to a Core ML package for iOS 17 and later.

    The input is an image (a ``CVPixelBuffer`` in an app); its normalisation is inside the graph, because
    Core ML's own has one scale for all three channels only.

    Raises:
        ValueError: The module cannot be converted.
    """
    ct = coremltools()
    shape = (1, 1 if package.gray else 3, package.side, package.side)
    layout = ct.colorlayout.GRAYSCALE if package.gray else ct.colorlayout.RGB
    half = ct.transform.FP16ComputePrecision(op_selector=package.in_half)

    def settings() -> dict[str, Any]:
        target: dict[str, Any] = {"outputs": [ct.TensorType(name=EMBEDDING_NAME, dtype=np.float32)]}
        if package.labels is not None:
            classes = ct.ClassifierConfig(list(package.labels), predicted_feature_name=LABEL_NAME)
            target = {"classifier_config": classes}
        return target | {
            "inputs": [ct.ImageType(name=INPUT_NAME, shape=shape, color_layout=layout)],
            "convert_to": "mlprogram",
            "minimum_deployment_target": ct.target.iOS17,
            "compute_precision": half if package.half else ct.precision.FLOAT32,
            "skip_model_load": True,
        }

    with torch.no_grad(), np.errstate(all="ignore"):
        model = _convert(module, torch.rand(shape) * 255, path.name, settings)
    kind = "image encoder" if package.labels is None else "classifier"
    model.short_description = f"Fetal-ultrasound {kind}"
    colour = "Gray" if package.gray else "RGB"
    model.input_description[INPUT_NAME] = f"{colour} frame, {package.side} x {package.side} pixels"
    model.license = metadata.get(METADATA_LICENCE, "")
    model.author, model.version = "SonoDistill", package_versions("sonodistill")["sonodistill"]
    model.user_defined_metadata.update(metadata)
    _save(model, path)


def _convert(module: nn.Module, example: Tensor, name: str, settings: Callable[[], dict[str, Any]]) -> Any:
    """Capture a module by `torch.export`, else by tracing, and convert it.

    Tracing a FastViT fails in coremltools 9.0 with numpy 2.4. It serves modules that cannot be exported or whose
    exported operators coremltools does not know.
    """
    ct = coremltools()
    try:
        return ct.convert(torch.export.export(module, (example,)).run_decompositions({}), **settings())
    except Exception as error:  # any failure of exporter or converter has the same remedy
        exported = error_line(error)
        log.warning("%s: torch.export failed, traced instead: %s", name, exported)
    try:
        return ct.convert(torch.jit.trace(module, example), **settings())
    except Exception as error:
        raise ValueError(
            f"{name}: Core ML cannot be written, neither by torch.export ({exported}) nor by torch.jit.trace "
            f"({error_line(error)}); leave it out with --skip=coreml"
        ) from error


def compress_package(source: Path, target: Path, compression: Compression) -> None:
    """Write a copy of a float16 package with smaller weights."""
    ct = coremltools()
    import coremltools.optimize.coreml as optimize

    model = ct.models.MLModel(str(source), skip_model_load=True)
    if compression.mode == "linear_symmetric":
        linear = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8")
        smaller = optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=linear))
    else:
        palette = optimize.OpPalettizerConfig(nbits=compression.bits, mode=compression.mode)
        smaller = optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=palette))
    _save(smaller, target)


def _save(model: Any, path: Path) -> None:
    """Save a package without the table that coremltools adds for ExecuTorch's debugger, which no app reads."""
    model.save(str(path))
    for table in path.rglob("executorch_debug_handle_mapping.json"):
        table.unlink()
