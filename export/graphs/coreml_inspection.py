"""Inspect a Core ML package on any system: interface, metadata, operators, size of the weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from export.graphs.contract import EMBEDDING_NAME, INPUT_NAME, METADATA_DIGEST
from export.graphs.coreml_package import LABEL_NAME, Package

IOS17_SPECIFICATION = 8
# Tolerance of the weights' file around parameters x bytes: alignment, look-up tables, scales, and small tensors that
# are not compressed.
SIZE_SHARE, SIZE_BYTES = 0.1, 32_768

# Operators that convolutional and attention models are known to run on the Neural Engine in float16
# (Apple, "Deploying Transformers on the Apple Neural Engine", 2022; coremltools' own performance reports).
# The compiler decides case by case: being listed is necessary, not sufficient; MLComputePlan on a Mac shows the plan.
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
    path: Path, package: Package, digest: str, weight_bytes: float | None = None
) -> dict[str, Any]:
    """Compare a package with what it should be.

    Args:
        path: The ``.mlpackage``.
        package: Its interface.
        digest: Digest of the preprocessing contract.
        weight_bytes: Expected size of the weights (parameters x bytes each), None when it is not known.

    Returns:
        ``problems``, every difference from what was expected, beside ``specification`` (8 is iOS 17), ``inputs``,
        ``outputs``, counts of ``operators``, those in float32, those not known to run on the Neural Engine, and the
        size of the weights' file.
    """
    import coremltools as ct

    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    inputs = {feature.name: _feature(feature) for feature in spec.description.input}
    outputs = {feature.name: _feature(feature) for feature in spec.description.output}
    operations = [op for op in load_program(path).functions["main"].operations if op.op_type != "const"]
    counts = Counter(operation.op_type for operation in operations)
    arithmetic = {name for name in counts if name not in BOOKKEEPING and not name.startswith("constexpr_")}
    wide = [op for op in operations if op.op_type in arithmetic and op.outputs[0].dtype.__name__ == "fp32"]
    colour = "GRAYSCALE" if package.gray else "RGB"
    expected = {
        "specification": (max(spec.specificationVersion, IOS17_SPECIFICATION), spec.specificationVersion),
        "inputs": ({INPUT_NAME: f"{colour} {package.side} x {package.side}"}, inputs),
        "metadata": (digest, dict(spec.description.metadata.userDefined).get(METADATA_DIGEST)),
    }
    if package.labels is None:
        expected["outputs"] = ({EMBEDDING_NAME: f"FLOAT32 [1, {package.dim}]"}, outputs)
    else:
        expected["outputs"] = ({LABEL_NAME: "string", f"{LABEL_NAME}_probs": "dictionary"}, outputs)
        expected["label output"] = (LABEL_NAME, spec.description.predictedFeatureName)
        classes = [[str(name) for name in op.classes.val] for op in operations if op.op_type == "classify"]
        expected["labels"] = ([list(package.labels)], classes)
    problems = [
        f"{name}: {got!r} instead of {want!r}" for name, (want, got) in expected.items() if want != got
    ]
    size = sum(file.stat().st_size for file in path.rglob("weight.bin"))
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
