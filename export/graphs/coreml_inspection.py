"""Inspect a Core ML package on any system: interface, metadata, operators, size of the weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from export.graphs.contract import EMBEDDING_NAME, INPUT_NAME, METADATA_DIGEST
from export.graphs.coreml_package import LABEL_NAME

IOS17_SPECIFICATION = 8
# Tolerance of the weights' file around parameters x bytes: alignment, look-up tables, scales, and small tensors that
# are not compressed.
SIZE_SHARE, SIZE_BYTES = 0.1, 32_768

# Operators that convolutional and attention models are known to run on the Neural Engine in float16
# (Apple, "Deploying Transformers on the Apple Neural Engine", 2022; coremltools' own performance reports).
# The compiler decides case by case: being listed is necessary, not sufficient; a Mac's MLComputePlan tells.
NEURAL_ENGINE_OPERATORS = frozenset(
    {
        "add", "avg_pool", "batch_norm", "clip", "concat", "conv", "expand_dims", "gelu", "identity",
        "layer_norm", "linear", "matmul", "max_pool", "maximum", "mul", "pad", "real_div", "reduce_l2_norm",
        "reduce_max", "reduce_mean", "reduce_sum", "relu", "reshape", "rsqrt", "sigmoid", "silu",
        "slice_by_index", "softmax", "split", "sqrt", "squeeze", "sub", "tanh", "tile", "transpose",
    }
)  # fmt: skip
# Not arithmetic: constants, change of type, look-up of the label.
BOOKKEEPING = frozenset({"const", "cast", "classify"})


def load_program(package: Path) -> Any:
    """Read the MIL program of a saved package, weights included."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    model = ct.models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    return load(spec, spec.specificationVersion, model.weights_dir)


def inspect_package(
    package: Path,
    *,
    side: int,
    gray: bool,
    dim: int,
    labels: list[str] | None,
    digest: str,
    weight_bytes: float | None = None,
) -> dict[str, Any]:
    """Compare a package with what it should be.

    Args:
        package: The ``.mlpackage``.
        side: Side of the frame, in pixels.
        gray: Whether it takes gray frames.
        dim: Dimension of the embedding.
        labels: Labels of a classifier, None for an encoder.
        digest: Digest of the preprocessing contract.
        weight_bytes: Expected size of the weights (parameters x bytes each), None when it is not known.

    Returns:
        ``specification`` (Core ML specification version, 8 is iOS 17); ``inputs``, name -> "RGB 256 x 256" or
        "GRAYSCALE 256 x 256"; ``outputs``, name -> "FLOAT32 [1, 512]", "string" or "dictionary"; ``operators``,
        operator -> count without constants; ``float32_operators``, names of operators that compute in float32;
        ``not_on_neural_engine``, operators that are not known to run there; ``weight_bytes``, size of the weights'
        file; ``problems``, every difference from what was expected.
    """
    import coremltools as ct

    spec = ct.models.MLModel(str(package), skip_model_load=True).get_spec()
    inputs = {feature.name: _feature(feature) for feature in spec.description.input}
    outputs = {feature.name: _feature(feature) for feature in spec.description.output}
    operations = [op for op in load_program(package).functions["main"].operations if op.op_type != "const"]
    counts = Counter(operation.op_type for operation in operations)
    arithmetic = {name for name in counts if name not in BOOKKEEPING and not name.startswith("constexpr_")}
    wide = [op for op in operations if op.op_type in arithmetic and op.outputs[0].dtype.__name__ == "fp32"]
    expected = {
        "specification": (max(spec.specificationVersion, IOS17_SPECIFICATION), spec.specificationVersion),
        "inputs": ({INPUT_NAME: f"{'GRAYSCALE' if gray else 'RGB'} {side} x {side}"}, inputs),
        "metadata": (digest, dict(spec.description.metadata.userDefined).get(METADATA_DIGEST)),
    }
    if labels is None:
        expected["outputs"] = ({EMBEDDING_NAME: f"FLOAT32 [1, {dim}]"}, outputs)
    else:
        expected["outputs"] = ({LABEL_NAME: "string", f"{LABEL_NAME}_probs": "dictionary"}, outputs)
        expected["label output"] = (LABEL_NAME, spec.description.predictedFeatureName)
        classify = next((op for op in operations if op.op_type == "classify"), None)
        expected["labels"] = (labels, None if classify is None else [str(x) for x in classify.classes.val])
    problems = [
        f"{name}: {got!r} instead of {want!r}" for name, (want, got) in expected.items() if want != got
    ]
    size = sum(file.stat().st_size for file in package.rglob("weight.bin"))
    if weight_bytes is not None and abs(size - weight_bytes) > SIZE_SHARE * weight_bytes + SIZE_BYTES:
        problems.append(f"weights: {size} bytes instead of about {weight_bytes:.0f}")
    return {
        "specification": spec.specificationVersion,
        "inputs": inputs,
        "outputs": outputs,
        "operators": dict(sorted(counts.items())),
        "float32_operators": sorted(op.op_type for op in wide),
        "not_on_neural_engine": sorted(arithmetic - NEURAL_ENGINE_OPERATORS),
        "weight_bytes": size,
        "problems": problems,
    }


def _feature(feature: Any) -> str:
    import coremltools as ct

    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        image = feature.type.imageType
        return f"{image.ColorSpace.Name(image.colorSpace)} {image.width} x {image.height}"
    if kind == "multiArrayType":
        array = feature.type.multiArrayType
        name = ct.proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Name(array.dataType)
        return f"{name} {list(array.shape)}"
    return str(kind).removesuffix("Type")
