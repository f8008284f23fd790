"""Operators of the Core ML oracle, against PyTorch's own."""

import pytest
import torch

from tests.export.graphs.mil_reference import OPERATORS

X = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
POSITIVE = X.abs() + 0.1
CASES = [
    ("clip", {"x": X, "alpha": -0.5, "beta": 0.25}, X.clamp(-0.5, 0.25)),
    ("sqrt", {"x": POSITIVE}, POSITIVE.sqrt()),
    ("rsqrt", {"x": POSITIVE, "epsilon": 0.5}, 1 / (POSITIVE + 0.5).sqrt()),
    ("square", {"x": X}, X * X),
    ("expand_dims", {"x": X, "axes": [0, 2]}, X[None, :, None]),
    ("reduce_mean", {"x": X, "axes": [2, -1], "keep_dims": True}, X.mean((2, 3), keepdim=True)),
    ("reduce_sum", {"x": X, "axes": None}, X.sum()),
    ("reduce_sum_square", {"x": X, "axes": [3]}, (X * X).sum(3)),
]


@pytest.mark.parametrize(("name", "given", "expected"), CASES)
def test_against_torch(name, given, expected):
    torch.testing.assert_close(OPERATORS[name](given), expected)


def test_asymmetric_padding_and_transposed_products():
    x, weight = torch.randn(1, 2, 5, 6), torch.randn(4, 2, 3, 3)
    values = {
        "x": x, "weight": weight, "strides": [1, 1], "dilations": [1, 1], "groups": 1,
        "pad_type": "custom", "pad": [1, 0, 2, 1],
    }  # fmt: skip
    padded = torch.zeros(1, 2, 6, 9)
    padded[:, :, 1:6, 2:8] = x
    torch.testing.assert_close(OPERATORS["conv"](values), torch.nn.functional.conv2d(padded, weight))
    a, b = torch.randn(2, 3), torch.randn(4, 3)
    torch.testing.assert_close(OPERATORS["matmul"]({"x": a, "y": b, "transpose_y": True}), a @ b.T)
    with pytest.raises(ValueError, match="pad_type"):
        OPERATORS["conv"]({**values, "pad_type": "same"})
