"""Evaluate a saved Core ML package in PyTorch, operator by operator: an oracle of its graph and weights.

Core ML predicts only on Apple's systems. The oracle reads the package that ships (graph, compressed weights,
precisions) and rounds every float16 value to float16. It tests conversion and compression, not Apple's kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name

from export.graphs.coreml_inspection import load_program

FRAMES_AT_ONCE = 16
Values = dict[str, Any]
Operator = Callable[[Values], Tensor]


def _ints(value: Any) -> list[int]:
    return [int(item) for item in np.asarray(value).reshape(-1)]


def _axis(value: Any) -> int:
    return int(np.asarray(value).reshape(-1)[0])


def _conv(v: Values) -> Tensor:
    x, strides = v["x"], _ints(v["strides"])
    kind = v.get("pad_type", "valid")
    if kind == "custom":
        pad = _ints(v["pad"])  # before and after of each spatial axis, outer axis first
        x = F.pad(x, [side for axis in range(len(pad) - 2, -1, -2) for side in (pad[axis], pad[axis + 1])])
    elif kind != "valid":
        raise ValueError(f"conv with pad_type {kind!r}")
    if x.ndim != 4:
        raise ValueError(f"conv over {x.ndim - 2} spatial axes")
    dilations, groups = _ints(v["dilations"]), _axis(v["groups"])
    return F.conv2d(x, v["weight"], v.get("bias"), strides, 0, dilations, groups)


def _batch_norm(v: Values) -> Tensor:
    return F.batch_norm(
        v["x"], v["mean"], v["variance"], v.get("gamma"), v.get("beta"), eps=float(v.get("epsilon", 1e-5))
    )


def _matmul(v: Values) -> Tensor:
    left = v["x"].transpose(-1, -2) if bool(v.get("transpose_x", False)) else v["x"]
    right = v["y"].transpose(-1, -2) if bool(v.get("transpose_y", False)) else v["y"]
    product: Tensor = left @ right
    return product


def _gelu(v: Values) -> Tensor:
    return F.gelu(v["x"], approximate="none" if str(v.get("mode", "EXACT")) == "EXACT" else "tanh")


def _expand_dims(v: Values) -> Tensor:
    x: Tensor = v["x"]
    for axis in sorted(_ints(v["axes"])):
        x = x.unsqueeze(axis)
    return x


def _reduction(v: Values) -> dict[str, Any]:
    axes = list(range(v["x"].ndim)) if v.get("axes") is None else _ints(v["axes"])
    return {"dim": axes, "keepdim": bool(v.get("keep_dims", False))}


def _number(v: Values, name: str, default: float) -> float:
    return default if v.get(name) is None else float(v[name])


OPERATORS: dict[str, Operator] = {
    "add": lambda v: v["x"] + v["y"],
    "batch_norm": _batch_norm,
    "cast": lambda v: v["x"],  # rounding to the output's type is done for every operator
    "classify": lambda v: v["probabilities"],
    "clip": lambda v: v["x"].clamp(_number(v, "alpha", -torch.inf), _number(v, "beta", torch.inf)),
    "concat": lambda v: torch.cat(v["values"], dim=_axis(v["axis"])),
    "conv": _conv,
    "expand_dims": _expand_dims,
    "gelu": _gelu,
    "identity": lambda v: v["x"],
    "linear": lambda v: F.linear(v["x"], v["weight"], v.get("bias")),
    "matmul": _matmul,
    "maximum": lambda v: torch.maximum(v["x"], torch.as_tensor(v["y"])),
    "mul": lambda v: v["x"] * v["y"],
    "real_div": lambda v: v["x"] / v["y"],
    "reduce_l2_norm": lambda v: torch.linalg.vector_norm(v["x"], **_reduction(v)),
    "reduce_mean": lambda v: v["x"].mean(**_reduction(v)),
    "reduce_sum": lambda v: v["x"].sum(**_reduction(v)),
    "reduce_sum_square": lambda v: v["x"].square().sum(**_reduction(v)),
    "relu": lambda v: v["x"].relu(),
    "reshape": lambda v: v["x"].reshape(_ints(v["shape"])),
    "rsqrt": lambda v: (v["x"] + _number(v, "epsilon", 1e-12)).rsqrt(),
    "sigmoid": lambda v: v["x"].sigmoid(),
    "softmax": lambda v: v["x"].softmax(dim=_axis(v["axis"])),
    "sqrt": lambda v: v["x"].sqrt(),
    "square": lambda v: v["x"].square(),
    "squeeze": lambda v: v["x"].squeeze(_ints(v["axes"])),
    "sub": lambda v: v["x"] - v["y"],
    "tile": lambda v: v["x"].repeat(_ints(v["reps"])),
    "transpose": lambda v: v["x"].permute(_ints(v["perm"])),
}


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
            (variable, *_) = operation.outputs
            values[variable.name] = _rounded(variable, OPERATORS[operation.op_type](arguments))
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
