"""Two gloo processes give the loss and the gradients of one process on the joint batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from losses import Embeddings, FeatureKDLoss, InteractiveContrastiveLoss, SRKDLoss
from losses.batch import JointBatch, gather_rows, rank, world_size
from losses.kernels.fused import fused_terms
from tests.losses.loss_cases import CASES, STUDENT_DIM, Case, make_batch, make_teacher
from tests.metrics.two_processes import run_in_two_processes

JOINT = 10  # two ranks of 5 pairs; captions 0 and 3, 5 and 8 of the joint batch are equal, as are 2 and 7
RAW = 3
KERNELS = ("fused", "chunked")
# Its loss leaves the logit scale out; DistributedDataParallel would wait for the gradient.
WITHOUT_SCALE = Case(lambda: FeatureKDLoss(contrastive_weight=0.0), lambda *_: {}, {})
TRAINED = {**CASES, "feature-alone": WITHOUT_SCALE}


class Student(nn.Module):
    """A student with two linear towers and the loss inside, so that DDP sees every parameter."""

    def __init__(self, loss, bias):
        super().__init__()
        torch.manual_seed(5)
        self.image = nn.Linear(RAW, STUDENT_DIM).double()
        self.text = nn.Linear(RAW, STUDENT_DIM).double()
        self.log_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(bias, dtype=torch.float64))
        self.loss = loss

    def forward(self, x, y, ids, teacher):
        student = Embeddings(
            normalize(self.image(x), dim=1),
            normalize(self.text(y), dim=1),
            self.log_scale.exp(),
            self.bias,
            *ids,
        )
        return self.loss(student, teacher)


def _part(tensor, part):
    return tensor if part is None else tensor.chunk(2)[part]


def run_case(name, part):
    """Return ({term: value}, {parameter: gradient}); `part` is the rank, or None for the joint batch."""
    case = TRAINED[name]
    model = Student(case.build(), case.bias)
    generator = torch.Generator().manual_seed(11)
    x, y = (torch.randn(JOINT, RAW, dtype=torch.float64, generator=generator) for _ in range(2))
    teacher = make_teacher(B=JOINT)
    ids = make_batch(B=JOINT).caption_id.clone()
    ids[7] = ids[2]  # a duplicate that spans the two ranks
    frozen = Embeddings(_part(teacher.image, part), _part(teacher.text, part), teacher.logit_scale)
    classes = make_batch(B=JOINT).class_id
    call = model if part is None else DistributedDataParallel(model)
    result = call(_part(x, part), _part(y, part), (_part(ids, part), _part(classes, part)), frozen)
    result["total"].backward()
    gradients = {
        key: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for key, parameter in model.named_parameters()
    }
    return {key: value.detach() for key, value in result.items()}, gradients


def embedding_gradients(name, part):
    """Return the gradients in the embeddings themselves and in the logit scale."""
    case = CASES[name]
    joint, teacher = make_batch(B=JOINT, bias=case.bias), make_teacher(B=JOINT)
    image, text = (_part(x, part).detach().clone().requires_grad_() for x in (joint.image, joint.text))
    ids = _part(joint.caption_id, part), _part(joint.class_id, part)
    student = Embeddings(image, text, joint.logit_scale, joint.logit_bias, *ids)
    frozen = Embeddings(_part(teacher.image, part), _part(teacher.text, part), teacher.logit_scale)
    total = case.build()(student, frozen)["total"]
    return torch.autograd.grad(total, (image, text, joint.logit_scale))


def one_low_row(kernel, part):
    """Return loss, gradient in the images and the fused terms where one row of the last rank underflows in float32."""
    batch, teacher = (
        make_batch(B=JOINT, scale=800.0, dtype=torch.float32),
        make_teacher(B=JOINT, dtype=torch.float32),
    )
    image = batch.image.detach().clone()
    image[8] = -normalize(batch.text.detach().sum(0), dim=0)
    image, text = _part(image, part).clone().requires_grad_(), _part(batch.text, part)
    student = Embeddings(image, text, batch.logit_scale)
    frozen = Embeddings(_part(teacher.image, part), _part(teacher.text, part), teacher.logit_scale)
    fused = (
        None if kernel == "plain" else fused_terms(JointBatch(student), JointBatch(frozen), 5.0, keep=True)
    )
    total = SRKDLoss(kernel=kernel)(student, frozen)["total"]
    return total.detach(), torch.autograd.grad(total, image)[0], fused


def assert_same(found, expected, name):
    """Equal to 1e-12 of the largest number: float64, in another order of summation."""
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max().clamp(min=1e-3), name


UNUSED = {
    "feature": lambda: FeatureKDLoss(feature_weight=0),
    "interactive": lambda: InteractiveContrastiveLoss(interactive_weight=0),
}


def _save_all(part, out):
    results = {name: [run_case(name, part)] for name in TRAINED}
    for name in CASES:
        results[name].append(embedding_gradients(name, part))
    for kernel in KERNELS:
        results["low row", kernel] = one_low_row(kernel, part)
    for name, make in UNUSED.items():
        loss = make()
        loss.build(4, 6)
        loss(make_batch(seed=part), make_teacher(seed=part))["total"].backward()
        results["unused", name] = [parameter.grad for parameter in loss.parameters()]
    torch.save(results, out / f"{part}.pt")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What ranks 0 and 1 computed, for every loss."""
    folder = tmp_path_factory.mktemp("gloo")
    run_in_two_processes(_save_all, folder, folder)
    return [torch.load(folder / f"{part}.pt") for part in (0, 1)]


@pytest.mark.parametrize("name", TRAINED)
def test_two_processes_equal_the_joint_batch(name, two_ranks):
    values, gradients = run_case(name, None)
    for result in two_ranks:
        their_values, their_gradients = result[name][0]
        assert set(their_values) == set(values)
        for key, value in values.items():
            assert_close(their_values[key], value, rtol=1e-12, atol=1e-12, msg=lambda m, k=key: f"{k}: {m}")
        for key, gradient in gradients.items():
            assert_same(their_gradients[key], gradient, key)


@pytest.mark.parametrize("name", CASES)
def test_embedding_gradients_follow_the_convention(name, two_ranks):
    """Each rank holds W times the joint gradient in its rows; scale gradients average to the joint one."""
    image, text, scale = embedding_gradients(name, None)
    parts = [result[name][1] for result in two_ranks]
    assert_same(torch.cat([part[0] for part in parts]) / 2, image, "image")
    assert_same(torch.cat([part[1] for part in parts]) / 2, text, "text")
    assert_same((parts[0][2] + parts[1][2]) / 2, scale, "scale")


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_range_too_large_for_one_rank_alone_makes_both_fall_back(kernel, two_ranks):
    expected = one_low_row("plain", None)
    for part, result in enumerate(two_ranks):
        value, image, fused = result["low row", kernel]
        assert fused is None
        assert_close(value, expected[0], rtol=1e-5, atol=0)
        # Logits up to 800 in float32 are off by up to 1e-4, and products of other shapes round differently.
        error = (image / 2 - expected[1].chunk(2)[part]).abs().max()
        assert error <= 1e-3 * expected[1].abs().max()


def test_a_single_process_gathers_nothing():
    rows = torch.randn(3, 2)
    assert gather_rows(rows) is rows
    assert (world_size(), rank()) == (1, 0)


@pytest.mark.parametrize("name", UNUSED)
def test_parameters_of_a_term_of_weight_0_take_part_in_every_step_of_two_processes(name, two_ranks):
    for result in two_ranks:
        gradients = result["unused", name]
        assert gradients
        assert all(gradient is not None and gradient.eq(0).all() for gradient in gradients)
