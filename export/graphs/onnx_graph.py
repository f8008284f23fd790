"""Convert a module to one ONNX file, edit such files, and run them with ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings as python_warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

OPSET = 20  # the first with a Gelu operator; composed of Erf, it cost ONNX Runtime a quarter of the time
LARGEST_BATCH = 1024
EXPORTED, TRACED = "torch.export", "torch.jit.trace"  # ways to capture a module


class _Collector(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.name}: {record.getMessage()}")


@contextlib.contextmanager
def collected_warnings(messages: list[str]) -> Iterator[None]:
    """Append the distinct warnings and log records of a block to `messages` instead of printing them."""
    found: list[str] = []
    handler = _Collector(found)
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers = [handler]
    try:
        with python_warnings.catch_warnings(record=True) as caught:
            python_warnings.simplefilter("default")
            yield
        found += [
            f"{item.category.__name__}: {item.message}"
            for item in caught
            if not issubclass(
                item.category, ResourceWarning
            )  # housekeeping of the libraries' temporary files
        ]
    finally:
        root.handlers = before
    lines = (" ".join(text.split())[:300] for text in found)
    messages += [line for line in dict.fromkeys(lines) if line not in messages]


def write_onnx(
    module: nn.Module,
    example: Tensor,
    path: Path,
    *,
    input_name: str,
    output_name: str,
    metadata: Mapping[str, str],
    dynamic_batch: bool = False,
    warnings: list[str] | None = None,
) -> str:
    """Convert a module in eval mode to a single ONNX file (weights inside).

    Args:
        module: Takes one tensor and returns one tensor.
        example: An input; its shape is the model's, but for a dynamic batch.
        path: File to write.
        input_name: Name of the input.
        output_name: Name of the output.
        metadata: Texts for the file's metadata.
        dynamic_batch: Leave the first axis open. Static shapes run faster on most phones.
        warnings: Receives the converter's warnings, and why the first way of capture failed, if it did.

    Returns:
        The way of capture: ``torch.export``, or ``torch.jit.trace`` where that fails.

    Raises:
        ValueError: The module is in training mode.
    """
    if module.training:
        raise ValueError(f"{path.name}: the module is in training mode; call eval() before exporting")
    if dynamic_batch:
        # An example batch of one would be specialised to one.
        example = example.expand(2, *example.shape[1:]).contiguous()
    names = {
        "input_names": [input_name],
        "output_names": [output_name],
        "opset_version": OPSET,
        "verbose": False,
    }
    messages = [] if warnings is None else warnings
    way = EXPORTED
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()), collected_warnings(messages):
        try:
            _export(module, example, path, names, dynamic_batch)
        except Exception as error:  # any failure of the exporter has the same remedy
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            messages.append(f"{path.name}: torch.export failed, traced instead: {reason}"[:300])
            _trace(module, example, path, names, dynamic_batch)
            way = TRACED
    add_metadata(path, metadata)
    return way


def _export(
    module: nn.Module, example: Tensor, path: Path, names: Mapping[str, Any], dynamic_batch: bool
) -> None:
    batch = ({0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)},)
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        dynamic_shapes=batch if dynamic_batch else None,
        external_data=False,
        **names,
    )
    assert program is not None
    program.save(str(path), external_data=False)


def _trace(
    module: nn.Module, example: Tensor, path: Path, names: Mapping[str, Any], dynamic_batch: bool
) -> None:
    tensors = [*names["input_names"], *names["output_names"]]
    axes = {tensor: {0: "batch"} for tensor in tensors} if dynamic_batch else None
    torch.onnx.export(module, (example,), str(path), dynamo=False, dynamic_axes=axes, **names)


def add_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace the metadata of an ONNX file."""
    import onnx

    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(path))


def append_classifier(
    encoder: Path, target: Path, weights: NDArray[np.float32], output_name: str, metadata: Mapping[str, str]
) -> None:
    """Write a copy of an image encoder that ends in class probabilities.

    Args:
        encoder: The encoder's ONNX file, with one output of embeddings [B, D].
        target: File to write.
        weights: Class vectors times the factor on cosines, [C, D].
        output_name: Name of the output, softmax(embedding @ weights.T), [B, C].
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
    graph.node.append(helper.make_node("Softmax", ["class_logits"], [output_name], axis=-1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(output_name, TensorProto.FLOAT, shape))
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(target))


def weight_count(path: Path) -> int:
    """Return the number of constants in an ONNX file: the parameters of what it computes."""
    import onnx

    return sum(math.prod(entry.dims) for entry in onnx.load(str(path)).graph.initializer)


def onnx_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file without loading it into a runtime."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


class OnnxRunner:
    """An ONNX file in ONNX Runtime on the CPU.

    Args:
        path: The file.
        threads: Threads of one operation; 0 leaves the choice to the runtime.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Run a batch of any size; a static graph gets its samples one by one."""
        if self._input.shape[0] != 1:
            return self._run(batch)
        return np.concatenate([self._run(batch[row : row + 1]) for row in range(len(batch))])

    def _run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        output: NDArray[np.float32] = self._session.run(None, {self._input.name: batch})[0]
        return output
