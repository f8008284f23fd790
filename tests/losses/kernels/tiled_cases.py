"""The tiled form of SRKD equals the plain one: tests for Triton's interpreter, run by `test_tiles`."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from losses import Embeddings, SRKDLoss, selective
from losses.kernels import tiles
from tests.losses.kernels.test_fused import KERNELS, gradients, never_plain
from tests.losses.loss_cases import make_batch, make_teacher
from tests.losses.test_batch import JOINT, embedding_gradients, run_case
from tests.metrics.two_processes import run_in_two_processes


def use_tiles():
    """Let SRKDLoss use the tiled form on the CPU."""
    selective.runs_on = lambda _: True


@pytest.fixture(autouse=True)
def _tiled():
    use_tiles()


def tiled_and_plain(kernel, student, teacher, combination, monkeypatch, **options):
    plain = gradients("plain", student, teacher, combination, **options)
    with monkeypatch.context() as patch:
        never_plain(patch)
        return gradients(kernel, student, teacher, combination, **options), plain


def assert_equal(ours, plain, rtol=1e-12):
    assert_close(ours[0], plain[0], rtol=rtol, atol=1e-12)
    for gradient, expected in zip(ours[1], plain[1], strict=True):
        assert (gradient - expected).abs().max() <= rtol * expected.abs().max() + 1e-14


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("B", "combinations"), [(1, 3), (2, 3), (64, 3), (150, 1)])
def test_any_combination_of_terms_equals_plain(kernel, B, combinations, monkeypatch):
    monkeypatch.setattr(tiles, "BLOCK_ELEMENTS", 1)  # blocks of 128 rows
    student, teacher = make_batch(B, D=16, scale=60.0), make_teacher(B, scale=100.0)
    for combination in ((1.0, 1.0, -0.8), (0.5, 2.0, 3.0), (0.0, 0.0, 1.0))[:combinations]:
        assert_equal(*tiled_and_plain(kernel, student, teacher, combination, monkeypatch, temperature=3.0))


@pytest.mark.parametrize("kernel", KERNELS)
def test_tiles_of_another_shape_change_nothing(kernel, monkeypatch):
    student, teacher = make_batch(50), make_teacher(50)
    monkeypatch.setattr(tiles, "TALL", 16)
    monkeypatch.setattr(tiles, "WIDE", 32)
    assert_equal(*tiled_and_plain(kernel, student, teacher, (1.0, 1.0, -0.8), monkeypatch))


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_range_of_logits_loses_precision(kernel, monkeypatch):
    """`losses.kernels.fused` leaves such rows to the plain form."""
    exact, teacher = make_batch(40, scale=800.0), make_teacher(40, scale=500.0)
    low = exact.image.detach().clone()
    low[8] = -normalize(exact.text.detach().sum(0), dim=0)
    exact = Embeddings(low.requires_grad_(), exact.text, exact.logit_scale)
    plain = gradients("plain", exact, teacher, (1.0, 1.0, 2.0), temperature=1.0)
    student = Embeddings(*(x.detach().float().requires_grad_() for x in (low, exact.text, exact.logit_scale)))
    single = Embeddings(*(x.float() for x in (teacher.image, teacher.text, teacher.logit_scale)))
    ours, _ = tiled_and_plain(kernel, student, single, (1.0, 1.0, 2.0), monkeypatch, temperature=1.0)
    # float32 rounds a logit of 800 by 5e-5.
    assert_close(ours[0].double(), plain[0], rtol=1e-5, atol=0)
    for gradient, expected in zip(ours[1], plain[1], strict=True):
        assert (gradient - expected).abs().max() <= 1e-3 * expected.abs().max()


@pytest.mark.parametrize("kernel", KERNELS)
def test_well_matched_pairs_keep_every_digit(kernel):
    """1 - q_ii is about 1e-8 here: computed as a difference from 1 in float32, it would be 0."""
    unit = torch.eye(8, dtype=torch.float64)
    exact = Embeddings(*(x.clone().requires_grad_() for x in (unit, unit, torch.tensor(20.0).double())))
    student = Embeddings(
        *(x.detach().float().requires_grad_() for x in (exact.image, exact.text, exact.logit_scale))
    )
    for combination in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)):
        expected = gradients("plain", exact, make_teacher(8), combination)
        ours = gradients(kernel, student, make_teacher(8, dtype=torch.float32), combination)
        assert_close(ours[0].double(), expected[0], rtol=1e-4, atol=0)
        assert_close(ours[1][2].double(), expected[1][2], rtol=1e-4, atol=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_second_backward_pass_is_bit_identical_to_the_first(kernel):
    student, teacher = make_batch(100), make_teacher(100)
    total = SRKDLoss(kernel=kernel)(student, teacher)["total"]
    first, second = (torch.autograd.grad(total, student.image, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def _save(part, out):
    use_tiles()
    torch.save((run_case("srkd", part), embedding_gradients("srkd", part)), out / f"{part}.pt")


@pytest.mark.slow
def test_two_processes_equal_the_joint_batch(tmp_path):
    run_in_two_processes(_save, tmp_path, tmp_path)
    ranks = [torch.load(tmp_path / f"{part}.pt") for part in (0, 1)]
    values, parameters = run_case("srkd", None)
    for (their_values, their_parameters), _ in ranks:
        for found, expected in ((their_values, values), (their_parameters, parameters)):
            for key, value in expected.items():
                assert_close(found[key], value, rtol=1e-11, atol=1e-12, msg=lambda m, k=key: f"{k}: {m}")
    images = torch.cat([gradients[0] for _, gradients in ranks])
    assert_close(images / 2, embedding_gradients("srkd", None)[0], rtol=1e-11, atol=1e-12)
    assert len(images) == JOINT
