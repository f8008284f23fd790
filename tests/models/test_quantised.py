"""Rounding equals numpy's, and the rest of the student is unchanged."""

import copy

import numpy as np
import pytest
import torch

from models import QuantisedStudent, build, freeze
from models.quantised import MOMENTUM, ActivationRange, image_layers, rounded_weight
from tests.models.conftest import REPVIT, small


@pytest.fixture(scope="module")
def recipe():
    torch.manual_seed(0)
    return small(REPVIT, embed_dim=16).recipe()


@pytest.fixture(scope="module")
def untouched(recipe):
    torch.manual_seed(1)
    return QuantisedStudent(recipe=recipe)


@pytest.fixture
def student(untouched):
    torch.manual_seed(1)
    return copy.deepcopy(untouched)


def images(count=4):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def test_weights_have_255_levels_a_channel():
    weights = np.random.default_rng(0).normal(size=(5, 3, 2, 2)).astype(np.float32)
    for row, found in zip(weights, rounded_weight(torch.from_numpy(weights)).numpy(), strict=True):
        step = np.abs(row).max() / 127
        assert (np.abs(row / step % 1 - 0.5) > 1e-3).all(), (
            "no weight lies so near to a tie that rounding decides"
        )
        np.testing.assert_allclose(found, np.round(row / step) * step, atol=1e-6)


def test_a_range_is_updated_only_in_training_and_contains_zero():
    layer = ActivationRange().train()
    first, second = torch.linspace(1, 3, 50), torch.linspace(-2, 5, 50)
    layer(first)
    assert (float(layer.low), float(layer.high)) == (0.0, 3.0)
    layer(second)
    assert float(layer.low) == pytest.approx(-2 * MOMENTUM)
    assert float(layer.high) == pytest.approx(3 + 2 * MOMENTUM)
    layer.eval()
    found = layer(torch.tensor([-9.0, 0.0, 1.234, 9.0]))
    step = float(layer.high - layer.low) / 255
    zero = round(-float(layer.low) / step)
    assert found.tolist() == pytest.approx(
        [-zero * step, 0.0, round(1.234 / step) * step, (255 - zero) * step], abs=1e-6
    )
    assert float(layer.high) == pytest.approx(3 + 2 * MOMENTUM)


def test_a_frozen_one_keeps_its_ranges_when_its_parent_trains(student):
    teacher = freeze(student.train())
    torch.nn.ModuleList([teacher]).train()
    teacher.encode_image(images())
    assert all(torch.isnan(layer.input_range.high) for _, layer in teacher.layers())


def test_untrained_ranges_round_only_the_weights(student):
    student.eval()
    with torch.no_grad():
        rounded, plain = student.encode_image(images()), student.float_copy().encode_image(images())
    assert not torch.equal(rounded, plain)
    assert float((rounded * plain).sum(dim=1).min()) > 0.9


def test_every_image_layer_is_rounded_and_learns_and_the_text_tower_stays(student):
    names = [name for name, _ in student.layers()]
    assert names == image_layers(student.float_copy())
    assert "image_projection" in names
    assert not any(name.startswith("text") for name in names)
    student.train()
    student.encode_image(images()).sum().backward()
    for name, layer in student.layers():
        assert layer.layer.weight.grad is not None, name
        assert torch.isfinite(layer.input_range.high), name
    assert not any(parameter.requires_grad for parameter in student.model.text.parameters())
    assert not student.log_logit_scale.requires_grad


def test_a_few_steps_bring_the_rounded_student_back_to_a_target(student):
    target = torch.nn.functional.normalize(torch.randn(4, 16), dim=1)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(24):
        loss = 1 - (student.train().encode_image(images()) * target).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_it_is_rebuilt_from_its_recipe_with_its_ranges(student):
    student.train().encode_image(images())
    student.eval()
    again = build(student.recipe())
    again.load_state_dict(student.state_dict())
    torch.testing.assert_close(again.eval().encode_image(images()), student.encode_image(images()))
    assert again.preprocessing == student.preprocessing


def test_exactly_one_of_checkpoint_and_recipe_is_required(recipe):
    with pytest.raises(ValueError, match="EXP=srkd-qat STUDENT="):
        QuantisedStudent()
    with pytest.raises(ValueError, match="EXP=srkd-qat STUDENT="):
        QuantisedStudent("x.ckpt", recipe)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_precision_than_float32_is_refused_in_one_line(student, dtype):
    with pytest.raises(
        ValueError, match=rf"^models.QuantisedStudent: .*{dtype}; .*precision=32-true or a mixed"
    ):
        student.to(dtype).train().encode_image(images().to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_trains_in_mixed_precision(student, dtype):
    with torch.autocast("cpu", dtype=dtype):
        student.train().encode_image(images()).sum().backward()
    assert all(torch.isfinite(layer.layer.weight.grad).all() for _, layer in student.layers())
