"""Channels-last models compute correct gradients where oneDNN would write out of bounds."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from models.encoders.memory_format import to_channels_last

ROOT = Path(__file__).resolve().parents[3]
# The file by itself: the package would import much that this does not need.
STEM = f"""
import runpy
import sys
import torch
from torch import nn

source = runpy.run_path({str(ROOT / "models/encoders/memory_format.py")!r})
to_channels_last, compile_model = source["to_channels_last"], source["compile_model"]
torch.manual_seed(0)
torch.set_num_threads(1)
stem = to_channels_last(nn.Conv2d(3, 64, 1, 2, bias=False))
if "compiled" in sys.argv:
    compile_model(stem)
contiguous = torch.randn(2, 3, 256, 256)
for image in (contiguous, contiguous.to(memory_format=torch.channels_last)):
    for _ in range(3):
        output = stem(image)
        stem.zero_grad()
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    weights = torch.linspace(-1, 1, output.numel()).view_as(output).double()
    expected = torch.einsum("bohw,bihw->oi", weights, image[..., ::2, ::2].double())
    error = (stem.weight.grad[..., 0, 0].double() - expected).abs().max() / expected.abs().max()
    print(float(error))
"""


def errors(*arguments):
    """Run the stem on images of both layouts, in a process whose fresh memory is not zero."""
    environment = {**os.environ, "MALLOC_PERTURB_": "165"}
    done = subprocess.run(
        [sys.executable, "-c", STEM, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    return [*map(float, done.stdout.split())]


def test_the_gradient_of_a_narrow_strided_stem_is_right():
    contiguous, channels_last = errors()
    assert contiguous < 1e-4
    assert channels_last < 1e-4


@pytest.mark.slow
def test_a_compiled_stem_keeps_its_layout():
    if shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler on a CPU (Debian: apt-get install g++)")
    assert max(errors("compiled")) < 1e-4


def test_all_other_convolutions_are_channels_last_and_compute_the_same():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 24, 1, 2), nn.Conv2d(24, 32, 1, 2), nn.Conv2d(32, 8, 3, 2), nn.Conv2d(8, 8, 1)
    plain = nn.Sequential(*layers)
    laid_out = to_channels_last(copy.deepcopy(plain))
    formats = [
        layer.weight.stride() == layer.weight.to(memory_format=torch.channels_last).stride()
        for layer in laid_out
    ]
    assert formats == [False, True, True, True]
    image = torch.randn(2, 3, 64, 64)
    outputs = [model(image) for model in (laid_out, plain)]
    torch.testing.assert_close(*outputs)
    gradients = [
        torch.autograd.grad(output.square().sum(), list(model.parameters()))
        for model, output in zip((laid_out, plain), outputs, strict=True)
    ]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    copied = copy.deepcopy(laid_out)  # the hook goes along
    torch.testing.assert_close(copied(image.to(memory_format=torch.channels_last)), plain(image))
    assert laid_out.state_dict().keys() == plain.state_dict().keys()
