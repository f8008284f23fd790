"""Every loss equals its double-loop version in float64: each term, the sum, and all gradients."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from losses import Embeddings, InteractiveContrastiveLoss
from tests.losses.loss_cases import CASES, make_batch, make_teacher


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_the_naive_loops(name):
    case = CASES[name]
    student, teacher = make_batch(bias=case.bias), make_teacher()
    loss = case.build()
    result = loss(student, teacher)
    expected = case.terms(student, teacher, loss)
    total = sum(case.weights.get(term, 1.0) * value for term, value in expected.items())

    assert set(expected) | {"total", "duplicate_rate"} <= set(result)
    for term, value in expected.items():
        assert_close(result[term], value, rtol=1e-11, atol=1e-12, msg=lambda m, t=term: f"{t}: {m}")
    assert_close(result["total"], total, rtol=1e-11, atol=1e-12)

    leaves = [student.image, student.text, student.logit_scale, *loss.parameters()]
    if student.logit_bias is not None:
        leaves.append(student.logit_bias)
    ours = torch.autograd.grad(result["total"], leaves)
    theirs = torch.autograd.grad(total, leaves)
    for gradient, oracle in zip(ours, theirs, strict=True):
        assert_close(gradient, oracle, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "name", [name for name in CASES if not name.startswith(("clip", "siglip", "combined"))]
)
def test_weights_of_zero_leave_the_term_out(name):
    case = CASES[name]
    loss = case.build()
    weight_names = [attribute for attribute in vars(loss) if attribute.endswith("_weight")]
    assert weight_names
    for attribute in weight_names:
        setattr(loss, attribute, 0.0)
    student = make_batch(bias=case.bias)
    result = loss(student, make_teacher())
    assert set(result) <= {"total", "diagonal", "duplicate_rate"}
    torch.autograd.grad(result["total"], student.image)  # still differentiable when nothing is left


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_embeddings_with_large_logits_give_finite_float32(name, dtype):
    case = CASES[name]
    loss = case.build().float()
    student = make_batch(B=16, scale=100.0, dtype=dtype, bias=case.bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss(student, make_teacher(B=16, scale=100.0, dtype=dtype))
    for term, value in result.items():
        assert value.dtype == torch.float32, term
        assert torch.isfinite(value), term
    result["total"].backward()
    assert torch.isfinite(student.image.grad).all()
    exact = loss.double()(
        Embeddings(
            student.image.double(),
            student.text.double(),
            student.logit_scale.double(),
            None if student.logit_bias is None else student.logit_bias.double(),
            student.caption_id,
            student.class_id,
        ),
        make_teacher(B=16, scale=100.0, dtype=dtype),
    )
    # Computed under autocast, but not in bfloat16: that would be off by about 1e-2.
    assert_close(result["total"].double(), exact["total"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_float64_embeddings_stay_float64_through_parameters_in_float32(name):
    case = CASES[name]
    student, teacher = make_batch(bias=case.bias), make_teacher()
    loss = case.build().float()
    leaves = (student.image, student.text, student.logit_scale)
    result = loss(student, teacher)
    found = torch.autograd.grad(result["total"], leaves)
    loss.double()  # the same numbers: float32 ones are exact in float64
    exact = loss(student, teacher)
    for term, value in exact.items():
        if term != "duplicate_rate":
            assert_close(result[term], value, rtol=1e-13, atol=0)
    for gradient, expected in zip(found, torch.autograd.grad(exact["total"], leaves), strict=True):
        assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


def test_an_interactive_scale_keeps_its_maximum_and_still_learns_there():
    loss = InteractiveContrastiveLoss(initial_logit_scale=100)
    student, teacher = make_batch(), make_teacher()
    loss.build(student.image.shape[1], teacher.image.shape[1])
    expected = loss(student, teacher)["interactive"].detach()
    with torch.no_grad():
        loss.log_logit_scale += 1  # a step beyond it
    found = loss(student, teacher)["interactive"]
    assert_close(found, expected)
    found.backward()
    assert loss.log_logit_scale.grad != 0


def test_the_interactive_scale_starts_as_clips():
    assert InteractiveContrastiveLoss().log_logit_scale.exp().item() == pytest.approx(1 / 0.07)
