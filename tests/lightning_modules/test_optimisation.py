"""Parameter groups and the learning-rate curve against values worked out by hand."""

import math

import pytest
import torch
from torch import nn

from lightning_modules import parameter_groups, warmup_cosine


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.LayerNorm(2)
        self.embedding = nn.Embedding(5, 2)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_only_matrices_are_decayed():
    tower = Tower()
    decayed, undecayed = parameter_groups([tower], 0.1)
    names = {id(parameter): name for name, parameter in tower.named_parameters()}
    assert decayed["weight_decay"] == 0.1
    assert undecayed["weight_decay"] == 0.0
    assert {names[id(p)] for p in decayed["params"]} == {"linear.weight", "conv.weight", "embedding.weight"}
    assert {names[id(p)] for p in undecayed["params"]} == {
        "linear.bias", "conv.bias", "norm.weight", "norm.bias", "scale",
    }  # fmt: skip


def test_a_shared_parameter_is_optimised_once():
    tower = Tower()
    groups = parameter_groups([tower, nn.ModuleList([tower.linear])], 0.1)
    assert sum(len(group["params"]) for group in groups) == 8


def test_a_module_without_vectors_gives_one_group():
    assert len(parameter_groups([nn.Linear(2, 2, bias=False)], 0.1)) == 1


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.002), (249, 0.5), (499, 1.0), (500, 1.0), (1250, 0.5 * (1 + math.cos(math.pi / 2))), (2000, 0.0)],
)
def test_warm_up_then_half_a_cosine(step, expected):
    assert warmup_cosine(step, warmup_steps=500, total_steps=2000) == pytest.approx(expected, abs=1e-12)


def test_a_short_run_shrinks_its_warm_up():
    factors = [warmup_cosine(step, warmup_steps=500, total_steps=40) for step in range(40)]
    assert max(factors) == factors[3] == pytest.approx(1.0)
    assert factors[-1] < 0.01


def test_no_warm_up_starts_at_the_peak():
    assert warmup_cosine(0, warmup_steps=0, total_steps=10) == 1.0
