"""Convert a module to one ONNX file, and edit and read such files."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.graphs.contract import EMBEDDING_NAME, FRAME_NAME, INPUT_NAME, PROBABILITIES_NAME
from models.messages import error_line, one_line

OPSET = 20  # the first with a Gelu operator; composed of Erf, it cost ONNX Runtime a quarter of the time
LARGEST_BATCH = 1024
log = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet(messages: list[str]) -> Iterator[None]:
    """Append the distinct warnings and log records of a block to `messages`, and print nothing."""
    handler, root = BufferingHandler(capacity=10**6), logging.getLogger()
    handler.setLevel(logging.WARNING)
    before, root.handlers = root.handlers, [handler]
    output = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    try:
        with output[0], output[1], warnings.catch_warnings(record=True) as caught:
            yield
    finally:
        root.handlers = before
    found = [f"{item.category.__name__}: {item.message}" for item in caught]
    found += [f"{record.name}: {record.getMessage()}" for record in handler.buffer]
    lines = dict.fromkeys(one_line(text, 300) for text in found)
    # Outside macOS coremltools warns that it cannot predict, which the ledger states anyway.
    messages += [line for line in lines if line not in messages and "Failed to load _ML" not in line]


def write_onnx(
    module: nn.Module,
    example: Tensor,
    path: Path,
    metadata: Mapping[str, str] | None = None,
    *,
    names: tuple[str, str] = (INPUT_NAME, EMBEDDING_NAME),
    dynamic_batch: bool = False,
) -> None:
    """Convert a module in eval mode to a single ONNX file (weights inside).

    `torch.export` captures the module; tracing is the fallback, logged as a warning.

    Args:
        module: Takes one tensor and returns one tensor.
        example: An input; its shape is the model's, but for a dynamic batch.
        path: File to write.
        metadata: Texts for the file's metadata.
        names: Of input and output.
        dynamic_batch: Leave the first axis open. Static shapes run faster on most phones.
    """
    settings: dict[str, Any] = {
        "input_names": [names[0]],
        "output_names": [names[1]],
        "opset_version": OPSET,
    }
    shapes = axes = None
    if dynamic_batch:
        # A batch of one would be specialised to one.
        example = example.expand(2, *example.shape[1:]).contiguous()
        shapes = ({0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)},)
        axes = {tensor: {0: "batch"} for tensor in names}
    with torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
                **settings,
            )
            assert program is not None
            program.save(str(path), external_data=False)
        except Exception as error:  # any failure of the exporter has the same remedy
            log.warning("%s: torch.export failed, traced instead: %s", path.name, error_line(error))
            torch.onnx.export(module, (example,), str(path), dynamo=False, dynamic_axes=axes, **settings)
    add_metadata(path, metadata or {})


def add_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace the metadata of an ONNX file; the exporter's notes on its parts, which name local source files, go."""
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(path))


def append_classifier(
    encoder: Path, target: Path, weights: NDArray[np.float32], metadata: Mapping[str, str]
) -> None:
    """Write a copy of an image encoder that ends in softmax(embedding @ weights.T), [B, C].

    Args:
        encoder: The encoder's ONNX file, with one output of embeddings [B, D].
        target: File to write.
        weights: Class vectors times the factor on cosines, [C, D].
        metadata: Texts for the file's metadata.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(encoder))
    graph, embedding = model.graph, model.graph.output[0]
    batch = embedding.type.tensor_type.shape.dim[0]
    shape = [batch.dim_param or batch.dim_value, len(weights)]
    table = np.ascontiguousarray(weights.T)
    graph.initializer.append(numpy_helper.from_array(table, "class_vectors"))
    graph.node.append(helper.make_node("MatMul", [embedding.name, "class_vectors"], ["class_logits"]))
    graph.node.append(helper.make_node("Softmax", ["class_logits"], [PROBABILITIES_NAME], axis=-1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(PROBABILITIES_NAME, TensorProto.FLOAT, shape))
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(target))


def prepend_resize(
    encoder: Path, target: Path, side: int, interpolation: str, metadata: Mapping[str, str]
) -> None:
    """Write a copy of an image encoder that takes a uint8 RGB frame [H, W, 3] of any size, and pads and resizes it.

    ONNX Runtime's antialiased Resize of uint8 differs from Pillow's by one value in a few pixels of a thousand; that of
    float32 by up to 27 where it enlarges.

    Args:
        encoder: The encoder's ONNX file, with one input of pixel values.
        target: File to write.
        side: Side of the encoder's input, in pixels.
        interpolation: "bicubic" or "bilinear".
        metadata: Texts for the file's metadata.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(encoder))
    graph, pixels = model.graph, model.graph.input[0].name
    kernel: dict[str, Any] = {"mode": "linear"}
    if interpolation == "bicubic":
        kernel = {"mode": "cubic", "cubic_coeff_a": -0.5}  # Pillow's
    constants = {"two": [2], "first_two": [0, 1], "sizes": [1, 3, side, side], "batch_axis": [0]}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), f"resize_{name}")
        for name, value in constants.items()
    )
    steps: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("Shape", [FRAME_NAME], ["size"], {"start": 0, "end": 2}),
        ("ReduceMax", ["size"], ["longer"], {"keepdims": 1}),
        ("Sub", ["longer", "size"], ["missing"], {}),
        ("Div", ["missing", "two"], ["before"], {}),  # an odd pixel goes right and below
        ("Sub", ["missing", "before"], ["after"], {}),
        ("Concat", ["before", "after"], ["pads"], {"axis": 0}),
        ("Pad", [FRAME_NAME, "pads", "", "first_two"], ["square"], {"mode": "constant"}),
        ("Transpose", ["square"], ["planes"], {"perm": [2, 0, 1]}),
        ("Unsqueeze", ["planes", "batch_axis"], ["batch"], {}),
        ("Resize", ["batch", "", "", "sizes"], ["resized"],
         {**kernel, "antialias": 1, "exclude_outside": 1, "coordinate_transformation_mode": "half_pixel"}),
        ("Cast", ["resized"], [pixels], {"to": TensorProto.FLOAT}),
    ]  # fmt: skip

    def own(name: str) -> str:
        return name if name in ("", FRAME_NAME, pixels) else f"resize_{name}"

    nodes = [
        helper.make_node(kind, [own(name) for name in inputs], [own(name) for name in outputs], **settings)
        for kind, inputs, outputs, settings in steps
    ]
    encoder_nodes = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes, *encoder_nodes])
    graph.output[0].type.tensor_type.shape.dim[
        0
    ].dim_value = 1  # of one frame, also where the encoder's batch is open
    graph.input.append(helper.make_tensor_value_info(FRAME_NAME, TensorProto.UINT8, ["height", "width", 3]))
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(target))


def weight_count(path: Path) -> int:
    """Return the number of constants in an ONNX file: the parameters of what it computes."""
    import onnx

    return sum(math.prod(entry.dims) for entry in onnx.load(str(path)).graph.initializer)


def onnx_interface(path: Path) -> tuple[dict[str, str], tuple[str, int]]:
    """Return the metadata of an ONNX file, and the name and batch size of its first output (0 for an open batch)."""
    import onnx

    model = onnx.load(str(path))
    (output, *_) = model.graph.output
    batch = output.type.tensor_type.shape.dim[0].dim_value
    return {entry.key: entry.value for entry in model.metadata_props}, (output.name, batch)
