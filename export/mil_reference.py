"""Run a saved Core ML package on any machine, operator by operator, as an oracle of its graph and weights.

Core ML predicts on Apple's systems alone. This reads the very package that is shipped (graph, compressed
weights, precisions) and computes it in torch, rounding every float16 value to float16. It proves conversion
and compression; it says nothing about Apple's kernels or speed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.mil_operators import OPERATORS

FRAMES_AT_ONCE = 16


class NoReferenceError(ValueError):
    """A package cannot be computed here: an operator, or a form of one, has no reference."""


def load_program(package: Path) -> Any:
    """Read the MIL program of a saved package, weights included."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    model = ct.models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    return load(spec, spec.specificationVersion, model.weights_dir)


class MilReference:
    """A Core ML package as a function.

    Args:
        package: The ``.mlpackage``.

    Raises:
        NoReferenceError: It holds an operator that has no reference here.
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
        unknown = sorted({op.op_type for op in self._operations} - set(OPERATORS))
        if unknown:
            raise NoReferenceError(f"no reference here for the Core ML operators {unknown}")

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Run frames [N, C, S, S] of pixel values, each as a batch of one; returns [N, D].

        Raises:
            NoReferenceError: An operator is used in a way that has no reference here.
        """
        frames = torch.as_tensor(pixels)[:, None].float()
        return torch.vmap(self._run, chunk_size=FRAMES_AT_ONCE)(frames)[:, 0].numpy()  # type: ignore[no-any-return]

    def _run(self, image: Tensor) -> Tensor:
        values: dict[str, Tensor] = {self._input: image, **self._constants}
        for operation in self._operations:
            arguments = {name: self._value(var, values) for name, var in operation.inputs.items()}
            try:
                result = OPERATORS[operation.op_type](arguments)
            except (KeyError, ValueError) as error:
                name = operation.op_type
                raise NoReferenceError(
                    f"no reference here for the Core ML operator {name} as used: {error}"
                ) from error
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
            # Kept: a package has hundreds of them and they are the same for every frame.
            values = self._constants
            values[variable.name] = torch.from_numpy(np.asarray(constant, dtype=np.float32).copy())
            return values[variable.name]
        return constant


def _rounded(variable: Any, output: Tensor) -> Tensor:
    name = getattr(variable.dtype, "__name__", "")
    return output.half().float() if name == "fp16" else output
