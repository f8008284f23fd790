"""The fused form of SRKD equals the plain one in values and gradients."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from benchmarks._record import peak_numbers
from losses import Embeddings, SRKDLoss
from losses.batch import JointBatch
from losses.kernels import fused
from tests.losses.loss_cases import make_batch, make_teacher

TERMS = ("contrastive", "diagonal", "off_diagonal")
KERNELS = ("fused", "chunked")
WEIGHTS = st.floats(-8.0, 8.0).map(lambda weight: round(weight, 6))  # never so small that products underflow


def leaves(batch):
    return batch.image, batch.text, batch.logit_scale


def gradients(kernel, student, teacher, combination, **options):
    result = SRKDLoss(kernel=kernel, **options)(student, teacher)
    value = sum(g * result[term] for g, term in zip(combination, TERMS, strict=True))
    return value.detach(), torch.autograd.grad(value, leaves(student))


def never_plain(monkeypatch):
    def refuse(*_):
        raise AssertionError("the plain form was used")

    monkeypatch.setattr(SRKDLoss, "distillation_terms", refuse)


@pytest.mark.parametrize("kernel", KERNELS)
@settings(deadline=None, max_examples=40)
@given(
    B=st.integers(1, 40),
    seed=st.integers(0, 10**6),
    scale=st.floats(0.5, 100.0),
    temperature=st.floats(1.0, 20.0),
    combination=st.tuples(WEIGHTS, WEIGHTS, WEIGHTS),
)
def test_any_combination_of_terms_equals_plain(kernel, B, seed, scale, temperature, combination):
    student, teacher = make_batch(B, scale=scale, seed=seed), make_teacher(B, seed + 1, 100.0)
    ours = gradients(kernel, student, teacher, combination, temperature=temperature)
    plain = gradients("plain", student, teacher, combination, temperature=temperature)
    # Terms, and the summands of a gradient, can cancel; their rounding does not. It grows with logits and weights.
    rounding = 4 * torch.finfo(torch.float64).eps * max(1.0, scale) * sum(map(abs, combination))
    assert_close(ours[0], plain[0], rtol=1e-12, atol=rounding)
    for gradient, expected in zip(ours[1], plain[1], strict=True):
        assert (gradient - expected).abs().max() <= 1e-12 * expected.abs().max() + rounding


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("B", [127, 600])
def test_several_blocks_of_uneven_height(kernel, B, monkeypatch):
    monkeypatch.setattr(fused, "BLOCK_ELEMENTS", 1)  # 128 rows a block: 64 + 63, and 600 = 4 * 128 + 88
    student, teacher = make_batch(B, D=16, scale=40.0), make_teacher(B, scale=100.0)
    plain = gradients("plain", student, teacher, (1.0, 1.0, -0.8))
    never_plain(monkeypatch)
    ours = gradients(kernel, student, teacher, (1.0, 1.0, -0.8))
    assert_close(ours[0], plain[0], rtol=1e-12, atol=0)
    for gradient, expected in zip(ours[1], plain[1], strict=True):
        assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_single_precision_is_as_exact_as_the_plain_form(kernel, monkeypatch):
    exact = make_batch(256, D=64, scale=100.0)
    teacher = make_teacher(256, scale=100.0)
    truth = gradients("plain", exact, teacher, (1.0, 1.0, 2.0))
    student = Embeddings(*(x.detach().float().requires_grad_() for x in leaves(exact)))
    never_plain(monkeypatch)
    ours = gradients(kernel, student, teacher, (1.0, 1.0, 2.0))
    assert_close(ours[0].double(), truth[0], rtol=1e-6, atol=0)
    for gradient, expected in zip(ours[1], truth[1], strict=True):
        assert (gradient - expected).norm() < 1e-5 * expected.norm()


def matched_batch(B, D, noise, scale, seed, dtype):
    """Return unit-length pairs that are the nearer to each other the less noise lies between them."""
    generator = torch.Generator().manual_seed(seed)
    image, other = (torch.randn(B, D, dtype=torch.float64, generator=generator) for _ in range(2))
    unit = [torch.nn.functional.normalize(x, dim=1).to(dtype) for x in (image, image + noise * other)]
    return Embeddings(*unit, torch.tensor(scale, dtype=dtype))


def in_80_bits(student, teacher, temperature, beta):
    """Return SRKD's value and its gradients in image and text, from the equations, in x87's extended precision."""
    image, text, scale = (x.detach().double().numpy().astype(np.longdouble) for x in leaves(student))
    teacher_image, teacher_text, teacher_scale = (
        x.double().numpy().astype(np.longdouble) for x in leaves(teacher)
    )
    logits, teacher_logits = scale * image @ text.T, teacher_scale * teacher_image @ teacher_text.T
    value, gradient = np.longdouble(0), np.zeros_like(logits)
    for way in (lambda matrix: matrix, lambda matrix: matrix.T):
        q, p = (np.exp(x - x.max(1, keepdims=True)) for x in (way(logits), way(teacher_logits) / temperature))
        others = ~np.eye(len(q), dtype=bool)
        rest_q, rest_p = (np.where(others, x, 0).sum(1) for x in (q, p))
        all_q, all_p = q.sum(1), p.sum(1)
        p, q = p / all_p[:, None], q / all_q[:, None]
        own_p, rest_q, rest_p = np.diag(p), rest_q / all_q, rest_p / all_p
        surprise = -np.log1p(-rest_q) if (rest_q < 0.5).all() else -np.log(np.diag(q))
        value += ((1 + own_p) * surprise - beta * np.where(others, p * np.log(q), 0).sum(1)).mean() / 2
        each = np.where(others, (1 + own_p + beta * rest_p)[:, None] * q - beta * p, 0)
        each += np.diag(beta * rest_p * np.diag(q) - (1 + own_p) * rest_q)
        gradient += way(each) / len(q) / 2
    return value, scale * gradient @ text, scale * gradient.T @ image


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="needs x87's 80-bit numbers as the oracle")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("teacher_scale", [45.0, 100.0, 400.0])
@pytest.mark.parametrize("noise", [3.0, 1.0, 0.5, 0.3])
@pytest.mark.parametrize("beta", [2.0, -0.8])
def test_well_matched_pairs_keep_every_digit(kernel, dtype, teacher_scale, noise, beta, monkeypatch):
    """A trained student's q_ii is 1 but for the last digits, which are all that its loss is made of."""
    student = matched_batch(96, 48, noise, 100.0, 0, dtype)
    teacher = matched_batch(96, 32, max(noise, 0.5), teacher_scale, 1, dtype)
    truth = in_80_bits(student, teacher, 5.0, beta)
    for x in leaves(student)[:2]:
        x.requires_grad_()
    never_plain(monkeypatch)
    value = SRKDLoss(kernel=kernel, off_diagonal_weight=beta)(student, teacher)["total"]
    ours = (value.detach(), *torch.autograd.grad(value, leaves(student)[:2]))
    # Logits of 100 carry 100 roundings' worth of error, which every quotient of exponentials inherits.
    tolerance = 600 * torch.finfo(dtype).eps
    for found, expected in zip(ours, truth, strict=True):
        difference = found.double().numpy() - expected
        assert np.linalg.norm(difference.ravel()) <= tolerance * np.linalg.norm(np.ravel(expected))


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_contrastive_term_of_well_matched_pairs_keeps_its_digits(kernel):
    """It is about 2e-13 here, and beside the off-diagonal term it would not show in the total."""
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(16, 64, dtype=torch.float64, generator=generator), dim=1)
    student = Embeddings(x.float(), x.float(), torch.tensor(40.0))
    teacher = Embeddings(x, x, torch.tensor(30.0, dtype=torch.float64))
    truth = torch.log1p((40 * (x @ x.T - 1)).fill_diagonal_(-torch.inf).exp().sum(1)).mean()
    found = SRKDLoss(kernel=kernel)(student, teacher)["contrastive"]
    assert float(found) == pytest.approx(float(truth), rel=1e-4, abs=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_too_large_a_range_of_logits_falls_back_to_the_plain_form(kernel):
    """A row whose best logit lies 1,400 below the largest possible one underflows in float32."""
    batch = make_batch(8, scale=800.0, dtype=torch.float32)
    image = batch.image.detach().clone()
    image[3] = -torch.nn.functional.normalize(batch.text.detach().sum(0), dim=0)
    student = Embeddings(image.requires_grad_(), batch.text, batch.logit_scale)
    teacher = make_teacher(8, dtype=torch.float32)
    assert fused.fused_terms(JointBatch(student), JointBatch(teacher), 5.0, keep=True) is None
    for name, value in SRKDLoss(kernel=kernel)(student, teacher).items():
        assert_close(value, SRKDLoss(kernel="plain")(student, teacher)[name], rtol=0, atol=0)


def test_embeddings_of_any_length_cannot_overflow_unseen():
    student = make_batch(8, scale=100.0, dtype=torch.float32)
    long = Embeddings(3 * student.image, 3 * student.text, student.logit_scale)
    teacher = make_teacher(8, dtype=torch.float32)
    assert_close(SRKDLoss()(long, teacher)["total"], SRKDLoss(kernel="plain")(long, teacher)["total"])


@pytest.mark.parametrize("kernel", KERNELS)
def test_second_derivatives_are_refused(kernel):
    student = make_batch(6)
    total = SRKDLoss(kernel=kernel)(student, make_teacher(6))["total"]
    with pytest.raises(ValueError, match="second derivatives with kernel=plain only"):
        torch.autograd.grad(total, student.image, create_graph=True)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("B", [9, 127, 600])
def test_a_second_backward_pass_is_bit_identical_to_the_first(kernel, dtype, B, monkeypatch):
    """The same operations on operands of the same shape; anything else rounds differently on some processor."""
    monkeypatch.setattr(fused, "BLOCK_ELEMENTS", 1)
    student, teacher = make_batch(B, D=48, scale=40.0, dtype=dtype), make_teacher(B, dtype=dtype)
    never_plain(monkeypatch)
    total = SRKDLoss(kernel=kernel)(student, teacher)["total"]
    once = torch.autograd.grad(total, leaves(student), retain_graph=True)
    again = torch.autograd.grad(total, leaves(student), retain_graph=True)
    third = torch.autograd.grad(total, leaves(student))
    for first, *others in zip(once, again, third, strict=True):
        assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", [0.0, -3.0, 1e-30])
def test_any_logit_scale_has_the_gradients_of_the_plain_form(kernel, scale, monkeypatch):
    student, teacher = make_batch(9, scale=scale), make_teacher(9)
    total = SRKDLoss(kernel="plain")(student, teacher)["total"]
    plain = torch.autograd.grad(total, leaves(student))
    never_plain(monkeypatch)
    total = SRKDLoss(kernel=kernel)(student, teacher)["total"]
    for _ in range(2):  # the second pass recomputes what the fused kernel kept for the first
        ours = torch.autograd.grad(total, leaves(student), retain_graph=True)
        for gradient, expected in zip(ours, plain, strict=True):
            # Cosines and softmaxes of nine float64 pairs: a few roundings of numbers below 1.
            assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("kernel", "matrices"), [("fused", 2.0), ("chunked", 0.375), ("plain", 8.0)])
def test_no_more_matrices_are_held_at_any_time_than_promised(kernel, matrices, monkeypatch):
    """Blocks of an eighth of the rows; the plain form shows that the count can be larger."""
    B, D = 1024, 8
    monkeypatch.setattr(fused, "BLOCK_ELEMENTS", 1)
    student, teacher = make_batch(B, D), make_teacher(B)

    def run():
        torch.autograd.grad(SRKDLoss(kernel=kernel)(student, teacher)["total"], leaves(student))

    run()
    numbers = peak_numbers(run) / 2  # counted in float32
    assert matrices <= numbers / B**2
    if kernel != "plain":
        assert numbers / B**2 < matrices + 0.2


def test_the_matrices_are_freed_by_the_backward_pass_that_reads_them():
    student = make_batch(64)
    terms = fused.fused_terms(JointBatch(student), JointBatch(make_teacher(64)), 5.0, keep=True)
    held = [weakref.ref(matrix) for matrix in terms["diagonal"].grad_fn.state.kept]
    assert len(held) == 2
    torch.autograd.grad(terms["diagonal"], student.image, retain_graph=True)
    assert all(matrix() is None for matrix in held)


@pytest.mark.parametrize("kernel", KERNELS)
def test_embeddings_changed_between_the_passes_are_an_error(kernel):
    student = make_batch()
    total = SRKDLoss(kernel=kernel)(student, make_teacher())["total"]
    with torch.no_grad():
        student.image.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_weight_zero_drops_the_term_and_its_gradient():
    student, teacher = make_batch(), make_teacher()
    result = SRKDLoss(off_diagonal_weight=0.0, contrastive_weight=0.0)(student, teacher)
    assert set(result) == {"total", "diagonal", "duplicate_rate"}
    assert_close(result["total"], result["diagonal"])


def test_unknown_kernel():
    with pytest.raises(ValueError, match="kernel must be fused, chunked or plain, not 'triton'"):
        SRKDLoss(kernel="triton")


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_backward_pass_within_autocast_is_in_float32(kernel):
    student, teacher = make_batch(dtype=torch.float32), make_teacher(dtype=torch.float32)
    total = SRKDLoss(kernel=kernel)(student, teacher)["total"]
    outside = torch.autograd.grad(total, leaves(student), retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(total, leaves(student))
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
