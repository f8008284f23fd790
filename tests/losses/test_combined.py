"""Sums of losses: composition from YAML, schedules, statistics."""

from __future__ import annotations

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn
from torch.testing import assert_close

from losses import CLIPLoss, CombinedLoss, CoupledKDLoss, FeatureKDLoss, SRKDLoss
from tests.losses.loss_cases import make_batch, make_teacher

YAML = """
loss:
  class_path: losses.CombinedLoss
  init_args:
    losses:
      task: {class_path: losses.CLIPLoss}
      srkd: {class_path: losses.SRKDLoss, init_args: {contrastive_weight: 0.0, temperature: 4.0}}
      feature: {class_path: losses.FeatureKDLoss, init_args: {contrastive_weight: 0.0}}
    weights: {feature: 0.25}
"""


def test_yaml_composes_a_sum():
    parser = ArgumentParser()
    parser.add_argument("--loss", type=nn.Module)
    loss = parser.instantiate_classes(parser.parse_string(YAML)).loss
    loss.build(4, 6)
    student, teacher = make_batch(dtype=torch.float32), make_teacher(dtype=torch.float32)
    result = loss(student, teacher)
    expected = result["task/total"] + result["srkd/total"] + 0.25 * result["feature/total"]
    assert_close(result["total"], expected)
    assert loss.parts["srkd"].temperature == 4.0
    assert {"task/contrastive", "srkd/off_diagonal", "feature/feature", "duplicate_rate"} <= set(result)


@pytest.mark.parametrize(
    ("part", "attribute"),
    [(SRKDLoss(), "off_diagonal_weight"), (CoupledKDLoss(), "distillation_weight")],
)
def test_a_schedule_sets_the_part_of_a_sum_of_sums(part, attribute):
    loss = CombinedLoss({"all": CombinedLoss({"task": CLIPLoss(), "kd": part})})
    assert loss.scheduled == attribute
    assert loss.scheduled_part is part
    assert list(loss.state_dict()) == []


def test_nothing_to_schedule():
    loss = CombinedLoss({"task": CLIPLoss()})
    assert loss.scheduled is None
    assert loss.scheduled_part is loss
    assert not loss.needs_teacher
    loss(make_batch())


def test_a_part_that_weighs_zero_is_left_out():
    loss = CombinedLoss(
        {"task": CLIPLoss(), "kd": SRKDLoss(), "feature": FeatureKDLoss()}, {"kd": 0, "feature": 0}
    )
    loss.build(4, None)
    assert not loss.needs_teacher
    assert loss.scheduled is None
    assert set(loss(make_batch())) == {"total", "task/contrastive", "task/total", "duplicate_rate"}


def test_foreign_modules_take_part():
    class Norm(nn.Module):
        def build(self, student_dim, teacher_dim):
            self.built_for = student_dim, teacher_dim

        def forward(self, student, teacher=None):
            return {"total": student.image.square().sum()}

    loss = CombinedLoss({"task": CLIPLoss(), "norm": Norm()}, {"norm": 2.0})
    loss.build(4, None)
    assert loss.parts["norm"].built_for == (4, None)
    result = loss(make_batch())
    assert_close(result["total"], result["task/total"] + 2 * result["norm/total"])


@pytest.mark.parametrize("answer", [{"mine": torch.ones(())}, torch.ones(())])
def test_a_part_without_total_is_named(answer):
    class Mine(nn.Module):
        def forward(self, student, teacher=None):
            return answer

    with pytest.raises(ValueError, match=r"own \(Mine\) must return a dictionary of terms with one, total"):
        CombinedLoss({"own": Mine()})(make_batch())


def test_the_terms_of_a_part_stay_as_they_are():
    terms = {"total": torch.ones(()), "duplicate_rate": torch.zeros(())}

    class Mine(nn.Module):
        def forward(self, student, teacher=None):
            return terms

    assert set(CombinedLoss({"own": Mine()})(make_batch())) == {"total", "own/total", "duplicate_rate"}
    assert set(terms) == {"total", "duplicate_rate"}


def test_saved_with_its_parts():
    loss = CombinedLoss({"feature": FeatureKDLoss()})
    loss.build(4, 6)
    assert any(key.startswith("parts.feature.heads") for key in loss.state_dict())
