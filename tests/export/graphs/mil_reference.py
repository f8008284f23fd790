"""Evaluate a saved Core ML package in PyTorch, operator by operator: an oracle of its graph and weights.

Core ML predicts only on Apple's systems. The oracle reads the package that ships (graph, compressed weights,
precisions) and rounds every float16 value to float16. It tests conversion and compression, not Apple's kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.graphs.coreml_inspection import load_program
from tests.export.graphs.mil_operators import OPERATORS

FRAMES_AT_ONCE = 16


class MilReference:
    """A Core ML package as a function.

    Args:
        package: The ``.mlpackage``.

    Raises:
        KeyError: It holds an operator that `OPERATORS` lacks.
    """

    def __init__(self, package: Path) -> None:
        function = load_program(package).functions["main"]
        self._operations = [op for op in function.operations if op.op_type != "const"]
        self._input = next(iter(function.inputs))
        last = self._operations[-1]
        self._output = last.probabilities.name if last.op_type == "classify" else function.outputs[0].name
        self._constants: dict[str, Tensor] = {}
        for operation in self._operations:
            if operation.op_type.startswith("constexpr_"):
                value = np.asarray(operation.materialized_val_inference(), dtype=np.float32)
                self._constants[operation.outputs[0].name] = torch.from_numpy(value)
        self._operations = [op for op in self._operations if not op.op_type.startswith("constexpr_")]

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Run frames [N, C, S, S] of pixel values, each as a batch of one; returns [N, D]."""
        frames = torch.as_tensor(pixels)[:, None].float()
        return torch.vmap(self._run, chunk_size=FRAMES_AT_ONCE)(frames)[:, 0].numpy()  # type: ignore[no-any-return]

    def _run(self, image: Tensor) -> Tensor:
        values: dict[str, Tensor] = {self._input: image, **self._constants}
        for operation in self._operations:
            arguments = {name: self._value(var, values) for name, var in operation.inputs.items()}
            result = OPERATORS[operation.op_type](arguments)
            outputs = result if isinstance(result, tuple) else (result,)
            for variable, output in zip(operation.outputs, outputs, strict=False):
                values[variable.name] = _rounded(variable, output)
            if operation.op_type != "classify" and self._output in values:
                return values[self._output]
        return values[self._output]

    def _value(self, variable: Any, values: dict[str, Tensor]) -> Any:
        if variable is None:
            return None
        if isinstance(variable, list | tuple):
            return [self._value(item, values) for item in variable]
        if variable.name in values:
            return values[variable.name]
        constant = variable.val
        if isinstance(constant, np.ndarray | np.generic) and np.issubdtype(constant.dtype, np.floating):
            # Cached: a package has hundreds of constants, equal for every frame.
            values = self._constants
            values[variable.name] = torch.from_numpy(np.asarray(constant, dtype=np.float32).copy())
            return values[variable.name]
        return constant


def _rounded(variable: Any, output: Tensor) -> Tensor:
    name = getattr(variable.dtype, "__name__", "")
    return output.half().float() if name == "fp16" else output
