"""Frozen teacher: one test for each property that Lightning could break."""

from __future__ import annotations

import torch
from lightning import LightningModule
from torch.nn import BatchNorm2d

from models import freeze


def batch(model) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(3, 3, 64, 64), model.tokenize(["brain at 20 weeks", "abdomen", "femur"])


def test_stays_in_eval_mode_when_its_parent_trains(repvit) -> None:
    parent = LightningModule()
    parent.teacher = freeze(repvit)
    parent.train()
    assert parent.training
    assert not any(module.training for module in parent.teacher.modules())


def test_batch_norm_statistics_never_move(repvit) -> None:
    teacher = freeze(repvit)
    teacher.train(True)
    before = [module.running_mean.clone() for module in teacher.modules() if isinstance(module, BatchNorm2d)]
    teacher(*batch(teacher))
    after = [module.running_mean for module in teacher.modules() if isinstance(module, BatchNorm2d)]
    assert len(before) > 5
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_has_no_gradients_and_no_graph(vit) -> None:
    teacher = freeze(vit)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    image, text = teacher(*batch(teacher))
    assert not image.requires_grad
    assert not text.requires_grad
