"""Pooling operators of the Core ML oracle, against torch's own layers."""

import pytest
import torch
from torch import nn

from export.mil_reference import OPERATORS

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
