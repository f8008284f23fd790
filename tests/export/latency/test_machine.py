"""Matrix-product peaks, and counts of parameters and multiply-accumulates against counts by hand."""

from types import SimpleNamespace

import pytest
import torch

from export.latency.interleave import time_interleaved
from export.latency.machine import image_cost, matmul_gflops, matmul_peaks, matmul_specs, share_of_peak
from models import fused_copy


def test_matmul_rate():
    assert matmul_gflops(1000.0) == pytest.approx(2 * 1536**3 / 1e9)


def test_share_of_peak_uses_the_backends_own_arithmetic():
    peaks = {"float32": 100.0, "int8": 400.0}
    found = {
        name: share_of_peak(name, 40.0, 2.0, peaks)
        for name in ("onnxruntime", "openvino-int8", "openvino-bf16")
    }
    assert found["onnxruntime"] == {"arithmetic": "float32", "share_of_matmul_peak": pytest.approx(1.0)}
    assert found["openvino-int8"] == {"arithmetic": "int8", "share_of_matmul_peak": pytest.approx(0.25)}
    assert found["openvino-bf16"] == found["onnxruntime"], "a product that could not be timed is no limit"


def test_matrix_products_of_all_arithmetics_run_here():
    timings = time_interleaved({**matmul_specs(1)}, rounds=1, repeats=1)
    assert {timing.error for timing in timings.values()} == {""}
    assert set(matmul_peaks(timings)) == {"float32", "bfloat16", "int8"}


class OneAttention(torch.nn.Module):
    """Four patches of 8 x 8 pixels, and one layer of attention with two heads of four channels among them."""

    preprocessing = SimpleNamespace(image_size=16)

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 8, stride=8)
        self.projection = torch.nn.Linear(8, 24)

    def encode_image(self, image):
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        queries, keys, values = self.projection(tokens).reshape(1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values).mean(dim=(1, 2))


def test_image_cost_counts_attention_by_hand():
    cost = image_cost(OneAttention().eval())
    patches, projection = 4 * 8 * (3 * 8 * 8), 4 * 8 * 24
    similarities = mixtures = 2 * (4 * 4) * 4  # heads, pairs of tokens, channels of a head
    assert cost["gmacs"] * 1e9 == pytest.approx(patches + projection + similarities + mixtures)
    assert cost["parameters_m"] * 1e6 == pytest.approx((3 * 64 + 1) * 8 + (8 + 1) * 24)


def test_image_cost_counts_one_convolution_by_hand(student):
    cost = image_cost(fused_copy(student))
    towers = fused_copy(student)
    expected = sum(p.numel() for p in towers.trunk.parameters()) + towers.image_projection.weight.numel()
    assert cost["parameters_m"] == pytest.approx(expected / 1e6)
    macs = []

    def count(module, inputs, output):
        macs.append(output[0].numel() * module.weight[0].numel())

    hooks = [m.register_forward_hook(count) for m in towers.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        towers.encode_image(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    assert cost["gmacs"] * 1e9 == pytest.approx(sum(macs), rel=0.1)  # convolutions are nearly all of it
