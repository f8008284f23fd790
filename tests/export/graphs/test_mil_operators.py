"""Operators of the Core ML oracle, against PyTorch's own."""

import pytest
import torch
from torch import nn

from tests.export.graphs.mil_operators import OPERATORS

CASES = [
    (kernel, stride, padding, ceil, size)
    for kernel, stride, padding in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 1, 0), (3, 3, 1)]
    for ceil in (False, True)
    for size in ((11, 11), (22, 8), (7, 10))
]


def arguments(kernel, stride, padding, ceil, size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    given = {"x": x, "kernel_sizes": [kernel] * 2, "strides": [stride] * 2, "ceil_mode": ceil}
    return given | ({"pad_type": "custom", "pad": [padding] * 4} if padding else {"pad_type": "valid"})


@pytest.mark.parametrize("case", CASES)
def test_max_pool(case):
    kernel, stride, padding, ceil, _ = case
    given = arguments(*case)
    expected = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)(given["x"])
    torch.testing.assert_close(OPERATORS["max_pool"](given), expected)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_avg_pool(case, exclude):
    kernel, stride, padding, ceil, _ = case
    given = arguments(*case) | {"exclude_padding_from_average": exclude}
    layer = nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil, count_include_pad=not exclude)
    torch.testing.assert_close(OPERATORS["avg_pool"](given), layer(given["x"]))


@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_padding_of_another_kind_is_refused(name):
    given = arguments(2, 2, 0, False, (4, 4)) | {"pad_type": "same_lower"}
    with pytest.raises(ValueError, match="pooling with pad_type 'same_lower'"):
        OPERATORS[name](given)


X = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
POSITIVE = X.abs() + 0.1
ELEMENTWISE = [
    ("clip", {"x": X, "alpha": -0.5, "beta": 0.25}, X.clamp(-0.5, 0.25)),
    ("sqrt", {"x": POSITIVE}, POSITIVE.sqrt()),
    ("rsqrt", {"x": POSITIVE, "epsilon": 0.5}, 1 / (POSITIVE + 0.5).sqrt()),
    ("tanh", {"x": X}, X.tanh()),
    ("erf", {"x": X}, torch.erf(X)),
    ("exp", {"x": X}, torch.exp(X)),
    ("abs", {"x": X}, X.abs()),
    ("square", {"x": X}, X * X),
    ("pow", {"x": POSITIVE, "y": torch.tensor(3.0)}, POSITIVE * POSITIVE * POSITIVE),
    ("minimum", {"x": X, "y": torch.tensor(0.1)}, X.clamp(max=0.1)),
    ("relu6", {"x": 9 * X}, nn.ReLU6()(9 * X)),
    ("leaky_relu", {"x": X, "alpha": 0.3}, nn.LeakyReLU(0.3)(X)),
    ("sigmoid_hard", {"x": X, "alpha": 1 / 6, "beta": 0.5}, nn.Hardsigmoid()(X)),
]
SHAPES = [
    ("reduce_max", {"x": X, "axes": [2, -1], "keep_dims": True}, X.amax((2, 3), keepdim=True)),
    ("reduce_max", {"x": X, "axes": None}, X.max()),
    ("reduce_min", {"x": X, "axes": [1]}, X.amin(1)),
    ("reduce_sum", {"x": X, "axes": [0, 1], "keep_dims": False}, X.sum((0, 1))),
    ("reduce_sum_square", {"x": X, "axes": [3]}, (X * X).sum(3)),
    ("pad", {"x": X, "pad": [0, 0, 1, 0, 2, 3], "constant_val": 7.0}, nn.ConstantPad3d((2, 3, 1, 0, 0, 0), 7.0)(X)),
    ("pad", {"x": X, "pad": [0, 0, 0, 0, 1, 2, 3, 1], "mode": "reflect"}, nn.ReflectionPad2d((3, 1, 1, 2))(X)),
    ("pad", {"x": X, "pad": [1, 2, 3, 1], "mode": "replicate"}, nn.ReplicationPad2d((3, 1, 1, 2))(X)),
    ("slice_by_index", {"x": X, "begin": [0, 1, 0, 4], "end": [2, 3, -1, 0], "stride": [1, 1, 2, -2]},
     X[:, 1:3, 0:-1:2].flip(3)[..., [0, 2]]),
    ("slice_by_index", {"x": X, "begin": [0, 9, 1, 2], "end": [0, 9, 9, 9], "begin_mask": [True, True, False, False],
      "end_mask": [True, True, False, True], "squeeze_mask": [False] * 4}, X[:, :, 1:, 2:]),
    ("slice_by_index", {"x": X, "begin": [1, 0, -1, 0], "end": [2, 3, 0, 5],
      "squeeze_mask": [True, False, True, False]}, X[1, :, -1]),
    ("slice_by_size", {"x": X, "begin": [0, 1, 0, 2], "size": [2, 2, -1, 1]}, X[:, 1:3, :, 2:3]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "expected"), ELEMENTWISE + SHAPES)
def test_against_torch(name, given, expected):
    torch.testing.assert_close(OPERATORS[name](given), expected)
