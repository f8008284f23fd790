"""Losses on the device equal float64 on the CPU: values and gradients, in every precision of the embeddings."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from losses import Embeddings, SRKDLoss
from losses.kernels import tiles
from tests.losses.kernels.test_fused import never_plain
from tests.losses.loss_cases import CASES, make_batch, make_teacher

pytestmark = pytest.mark.gpu
KERNELS = ("plain", "fused", "chunked")
HALF = (torch.bfloat16, torch.float16)
# Of the largest gradient. float32 rounds a logit of 100 by 4e-6; a gradient in half precision is rounded itself.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def moved(batch, dtype, device, requires_grad=True):
    """Return a batch in a precision on a device; captions too."""
    image, text, scale = (
        None if x is None else x.detach().to(device, dtype).requires_grad_(requires_grad)
        for x in (batch.image, batch.text, batch.logit_scale)
    )
    bias = None if batch.logit_bias is None else batch.logit_bias.detach().to(device, torch.float32)
    return Embeddings(image, text, scale, bias, batch.caption_id.to(device), batch.class_id.to(device))


def differentiate(loss, student, teacher, autocast=False):
    with torch.autocast(student.image.device.type, torch.bfloat16, enabled=autocast):
        terms = loss(student, teacher)
    return terms, torch.autograd.grad(terms["total"], (student.image, student.text, student.logit_scale))


def compare(loss, batch, taught, dtype, device):
    """Compare terms and gradients on the device with float64 on the CPU, of the same rounded numbers."""
    student, teacher = moved(batch, dtype, device), moved(taught, dtype, device, requires_grad=False)
    exact, exact_teacher = (moved(x, torch.float64, "cpu") for x in (student, teacher))
    expected, oracle = differentiate(loss.double().cpu(), exact, exact_teacher)
    loss = loss.to(device, torch.promote_types(dtype, torch.float32))
    terms, gradients = differentiate(loss, student, teacher, autocast=dtype in HALF)
    for name, value in expected.items():
        rtol = 1e-11 if dtype == torch.float64 else 3e-5
        assert_close(
            terms[name].cpu().double(),
            value.double(),
            rtol=rtol,
            atol=rtol,
            msg=lambda m, n=name: f"{n}: {m}",
        )
    for gradient, exact_gradient in zip(gradients, oracle, strict=True):
        error = (gradient.cpu().double() - exact_gradient).abs().max()
        assert error <= TOLERANCE[dtype] * exact_gradient.abs().max() + 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_loss(name, dtype, device):
    case = CASES[name]
    compare(case.build(), make_batch(20, bias=case.bias), make_teacher(20), dtype, device)


# Triton compiles its kernels once for each dtype of the loss, and once more for a batch of one.
@pytest.mark.parametrize(
    ("B", "dtype"),
    [
        (1, torch.float32),
        (64, torch.float64),
        (64, torch.float32),
        *((515, t) for t in (torch.float32, *HALF)),
    ],
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_of_srkd(kernel, B, dtype, device, monkeypatch):
    monkeypatch.setattr(tiles, "BLOCK_ELEMENTS", 1)  # blocks of 128 rows
    if kernel != "plain":
        never_plain(monkeypatch)
        supported = device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
        assert tiles.runs_on(torch.empty(0, device=device)) is supported
    loss = SRKDLoss(kernel=kernel, off_diagonal_weight=-0.8)
    compare(loss, make_batch(B, D=64, scale=100.0), make_teacher(B, scale=100.0), dtype, device)


@pytest.mark.parametrize("kernel", KERNELS)
def test_results_are_the_same_in_every_run(kernel, device):
    student, teacher = (
        moved(x, torch.float32, device) for x in (make_batch(700, D=64, scale=50.0), make_teacher(700))
    )
    first, second = (differentiate(SRKDLoss(kernel=kernel), student, teacher) for _ in range(2))
    assert torch.equal(first[0]["total"], second[0]["total"])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


@pytest.mark.parametrize("kernel", KERNELS)
def test_tf32_products_change_a_loss_by_less_than_half_precision_towers_do(kernel, device):
    """TF32 rounds to 11 bits: a logit near 100 by at most 0.05, as bfloat16 embeddings, of 8 bits, do by 0.4."""
    student, teacher = (
        moved(x, torch.float32, device) for x in (make_batch(512, 64, 100.0), make_teacher(512))
    )
    exact, _ = differentiate(SRKDLoss(kernel=kernel), student, teacher)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        rounded, _ = differentiate(SRKDLoss(kernel=kernel), student, teacher)
    finally:
        torch.set_float32_matmul_precision(before)
    assert_close(rounded["total"], exact["total"], rtol=1e-2, atol=0)
