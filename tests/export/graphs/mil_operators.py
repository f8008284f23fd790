"""Core ML operators in PyTorch, for `tests.export.graphs.mil_reference`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name

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
    axes = list(range(v["x"].ndim)) if v.get("axes") is None else _ints(v["axes"])
    return {"dim": axes, "keepdim": bool(v.get("keep_dims", False))}


def _pad(v: Values) -> Tensor:
    given, mode = _ints(v["pad"]), str(v.get("mode", "constant"))
    # Before and after of the last axes, outer axis first; torch wants the innermost first.
    pairs = [(given[place], given[place + 1]) for place in range(0, len(given), 2)]
    if mode == "constant":
        value = float(v.get("constant_val", 0.0))
        return F.pad(v["x"], [side for pair in reversed(pairs) for side in pair], value=value)
    while pairs and pairs[0] == (0, 0):  # torch reflects and replicates the innermost axes alone
        pairs.pop(0)
    return F.pad(v["x"], [side for pair in reversed(pairs) for side in pair], mode=mode)


def _flags(value: Any, count: int) -> list[bool]:
    return [False] * count if value is None else [bool(item) for item in np.asarray(value).reshape(-1)]


def _slice_by_index(v: Values) -> Tensor:
    x: Tensor = v["x"]
    begin, end, count = _ints(v["begin"]), _ints(v["end"]), x.ndim
    steps = [1] * count if v.get("stride") is None else _ints(v["stride"])
    from_start, to_end, drop = (
        _flags(v.get(name), count) for name in ("begin_mask", "end_mask", "squeeze_mask")
    )
    for axis in range(count):
        places = range(x.shape[axis])
        if drop[axis]:
            chosen = places[begin[axis] : begin[axis] + 1 or None]
        else:
            first = None if from_start[axis] else begin[axis]
            chosen = places[first : None if to_end[axis] else end[axis] : steps[axis]]
        x = x.index_select(axis, torch.tensor(chosen, dtype=torch.int64))
    return x.squeeze([axis for axis in range(count) if drop[axis]]) if any(drop) else x


def _slice_by_size(v: Values) -> Tensor:
    x: Tensor = v["x"]
    for axis, (begin, size) in enumerate(zip(_ints(v["begin"]), _ints(v["size"]), strict=True)):
        x = x.narrow(axis, begin, x.shape[axis] - begin if size == -1 else size)
    return x


def _number(v: Values, name: str, default: float) -> float:
    return default if v.get(name) is None else float(v[name])


OPERATORS: dict[str, Operator] = {
    "abs": lambda v: v["x"].abs(),
    "add": lambda v: v["x"] + v["y"],
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "cast": lambda v: v["x"],  # rounding to the output's type is done for every operator
    "classify": lambda v: v["probabilities"],
    "clip": lambda v: v["x"].clamp(_number(v, "alpha", -torch.inf), _number(v, "beta", torch.inf)),
    "concat": lambda v: torch.cat(v["values"], dim=_axis(v["axis"])),
    "conv": _conv,
    "erf": lambda v: v["x"].erf(),
    "exp": lambda v: v["x"].exp(),
    "expand_dims": _expand_dims,
    "gelu": _gelu,
    "identity": lambda v: v["x"],
    "layer_norm": _layer_norm,
    "leaky_relu": lambda v: F.leaky_relu(v["x"], _number(v, "alpha", 0.01)),
    "linear": lambda v: F.linear(v["x"], v["weight"], v.get("bias")),
    "matmul": _matmul,
    "max_pool": _max_pool,
    "maximum": lambda v: torch.maximum(v["x"], torch.as_tensor(v["y"])),
    "minimum": lambda v: torch.minimum(v["x"], torch.as_tensor(v["y"])),
    "mul": lambda v: v["x"] * v["y"],
    "pad": _pad,
    "pow": lambda v: v["x"] ** v["y"],
    "real_div": lambda v: v["x"] / v["y"],
    "reduce_l2_norm": lambda v: torch.linalg.vector_norm(v["x"], **_reduction(v)),
    "reduce_max": lambda v: v["x"].amax(**_reduction(v)),
    "reduce_mean": lambda v: v["x"].mean(**_reduction(v)),
    "reduce_min": lambda v: v["x"].amin(**_reduction(v)),
    "reduce_sum": lambda v: v["x"].sum(**_reduction(v)),
    "reduce_sum_square": lambda v: v["x"].square().sum(**_reduction(v)),
    "relu": lambda v: v["x"].relu(),
    "relu6": lambda v: F.relu6(v["x"]),
    "reshape": lambda v: v["x"].reshape(_ints(v["shape"])),
    "rsqrt": lambda v: (v["x"] + _number(v, "epsilon", 1e-12)).rsqrt(),
    "sigmoid": lambda v: v["x"].sigmoid(),
    "sigmoid_hard": lambda v: (_number(v, "alpha", 0.2) * v["x"] + _number(v, "beta", 0.5)).clamp(0, 1),
    "silu": lambda v: F.silu(v["x"]),
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "softmax": lambda v: v["x"].softmax(dim=_axis(v["axis"])),
    "split": _split,
    "sqrt": lambda v: v["x"].sqrt(),
    "square": lambda v: v["x"].square(),
    "squeeze": lambda v: v["x"].squeeze(_ints(v["axes"])),
    "sub": lambda v: v["x"] - v["y"],
    "tanh": lambda v: v["x"].tanh(),
    "tile": lambda v: v["x"].repeat(_ints(v["reps"])),
    "transpose": lambda v: v["x"].permute(_ints(v["perm"])),
}
