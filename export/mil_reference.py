"""Run a saved Core ML package on any machine, operator by operator, as an oracle of its graph and weights.

Core ML predicts on Apple's systems alone. This reads the very package that is shipped (graph, compressed
weights, precisions) and computes it in torch, rounding every float16 value to float16. It proves conversion
and compression; it says nothing about Apple's kernels or speed.
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

FRAMES_AT_ONCE = 16

Values = dict[str, Any]
Operator = Callable[[Values], Tensor | tuple[Tensor, ...]]


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


def _pooling(v: Values) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return kernel, strides, and padding (as torch orders it) by the operator's own rule and by ceil mode."""
    x, kernel = v["x"], _ints(v["kernel_sizes"])
    if x.ndim != 4:
        raise ValueError(f"pooling over {x.ndim - 2} spatial axes")
    strides = _ints(v["strides"]) if v.get("strides") is not None else [1, 1]
    kind = str(v.get("pad_type", "valid"))
    if kind not in ("valid", "custom"):
        raise ValueError(f"pooling with pad_type {kind!r}")
    given = _ints(v["pad"]) if kind == "custom" else [0, 0, 0, 0]
    own: list[int] = []
    beyond: list[int] = []
    for axis in (1, 0):
        before, after = given[2 * axis], given[2 * axis + 1]
        size = x.shape[2 + axis]
        room = size + before + after - kernel[axis]
        windows = (
            -(-room // strides[axis]) if bool(v.get("ceil_mode", False)) else room // strides[axis]
        ) + 1
        if (windows - 1) * strides[axis] >= size + before:  # no window starts behind the image
            windows -= 1
        own += [before, after]
        beyond += [0, max(0, (windows - 1) * strides[axis] - room)]
    return kernel, strides, own, beyond


def _max_pool(v: Values) -> Tensor:
    kernel, strides, own, beyond = _pooling(v)
    padding = [a + b for a, b in zip(own, beyond, strict=True)]
    return F.max_pool2d(F.pad(v["x"], padding, value=-torch.inf), kernel, strides)


def _avg_pool(v: Values) -> Tensor:
    kernel, strides, own, beyond = _pooling(v)
    counted = 0.0 if bool(v.get("exclude_padding_from_average", False)) else 1.0
    total = F.avg_pool2d(F.pad(F.pad(v["x"], own), beyond), kernel, strides)
    ones = torch.ones(1, 1, *v["x"].shape[2:])
    return total / F.avg_pool2d(F.pad(F.pad(ones, own, value=counted), beyond), kernel, strides)


def _batch_norm(v: Values) -> Tensor:
    return F.batch_norm(
        v["x"], v["mean"], v["variance"], v.get("gamma"), v.get("beta"), eps=float(v.get("epsilon", 1e-5))
    )


def _layer_norm(v: Values) -> Tensor:
    axes = sorted(axis % v["x"].ndim for axis in _ints(v["axes"]))
    if axes != list(range(v["x"].ndim - len(axes), v["x"].ndim)):
        raise ValueError(f"layer_norm over the axes {axes}")
    shape = v["x"].shape[axes[0] :]
    normal: Tensor = F.layer_norm(v["x"], shape, v.get("gamma"), v.get("beta"), float(v.get("epsilon", 1e-5)))
    return normal


def _matmul(v: Values) -> Tensor:
    left = v["x"].transpose(-1, -2) if bool(v.get("transpose_x", False)) else v["x"]
    right = v["y"].transpose(-1, -2) if bool(v.get("transpose_y", False)) else v["y"]
    product: Tensor = left @ right
    return product


def _split(v: Values) -> tuple[Tensor, ...]:
    axis = _axis(v["axis"])
    if v.get("split_sizes") is not None:
        return v["x"].split(_ints(v["split_sizes"]), dim=axis)  # type: ignore[no-any-return]
    return v["x"].chunk(_axis(v["num_splits"]), dim=axis)  # type: ignore[no-any-return]


def _gelu(v: Values) -> Tensor:
    return F.gelu(v["x"], approximate="none" if str(v.get("mode", "EXACT")) == "EXACT" else "tanh")


def _expand_dims(v: Values) -> Tensor:
    x: Tensor = v["x"]
    for axis in sorted(_ints(v["axes"])):
        x = x.unsqueeze(axis)
    return x


def _reduction(v: Values) -> dict[str, Any]:
    return {"dim": _ints(v["axes"]), "keepdim": bool(v.get("keep_dims", False))}


OPERATORS: dict[str, Operator] = {
    "add": lambda v: v["x"] + v["y"],
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "cast": lambda v: v["x"],  # rounding to the output's type is done for every operator
    "classify": lambda v: v["probabilities"],
    "concat": lambda v: torch.cat(v["values"], dim=_axis(v["axis"])),
    "conv": _conv,
    "expand_dims": _expand_dims,
    "gelu": _gelu,
    "identity": lambda v: v["x"],
    "layer_norm": _layer_norm,
    "linear": lambda v: F.linear(v["x"], v["weight"], v.get("bias")),
    "matmul": _matmul,
    "max_pool": _max_pool,
    "maximum": lambda v: torch.maximum(v["x"], torch.as_tensor(v["y"])),
    "mul": lambda v: v["x"] * v["y"],
    "real_div": lambda v: v["x"] / v["y"],
    "reduce_l2_norm": lambda v: torch.linalg.vector_norm(v["x"], **_reduction(v)),
    "reduce_mean": lambda v: v["x"].mean(**_reduction(v)),
    "relu": lambda v: v["x"].relu(),
    "reshape": lambda v: v["x"].reshape(_ints(v["shape"])),
    "sigmoid": lambda v: v["x"].sigmoid(),
    "silu": lambda v: F.silu(v["x"]),
    "softmax": lambda v: v["x"].softmax(dim=_axis(v["axis"])),
    "split": _split,
    "squeeze": lambda v: v["x"].squeeze(_ints(v["axes"])),
    "sub": lambda v: v["x"] - v["y"],
    "tile": lambda v: v["x"].repeat(_ints(v["reps"])),
    "transpose": lambda v: v["x"].permute(_ints(v["perm"])),
}


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
        ValueError: It holds an operator that has no reference here.
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
            raise ValueError(f"{package.name}: no reference for the Core ML operators {unknown}")

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
            # Kept: a package has hundreds of them and they are the same for every frame.
            values = self._constants
            values[variable.name] = torch.from_numpy(np.asarray(constant, dtype=np.float32).copy())
            return values[variable.name]
        return constant


def _rounded(variable: Any, output: Tensor) -> Tensor:
    name = getattr(variable.dtype, "__name__", "")
    return output.half().float() if name == "fp16" else output
