"""The weight's curve, against values worked out by hand, and its refusals."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from callbacks import OffDiagonalSchedule
from losses import CLIPLoss, CombinedLoss, CoupledKDLoss, SRKDLoss
from tests.callbacks.tiny import quiet_trainer

SHAPES = ["linear", "cosine", "exponential", "step", "constant", "hold-linear"]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [2.0, 1.3, 0.6, -0.1, -0.8]),
        ("cosine", [2.0, 1.5899495, 0.6, -0.3899495, -0.8]),
        ("step", [2.0, 2.0, -0.8, -0.8, -0.8]),
        ("constant", [2.0] * 5),
        ("hold-linear", [2.0, 2.0, 2.0, 0.6, -0.8]),
        ("exponential", [2.0, -0.01134, -0.5875, -0.7532, -0.8]),
    ],
)
def test_weights_at_quarters_of_training(shape, expected):
    schedule = OffDiagonalSchedule(start=2.0, end_ratio=-0.4, shape=shape)
    weights = [schedule.weight(x / 4) for x in range(5)]
    assert weights == pytest.approx(expected, abs=1e-3)


def test_a_start_of_zero_needs_an_end():
    weights = [OffDiagonalSchedule(start=0.0, end=-0.8).weight(step / 4) for step in range(5)]
    assert weights == pytest.approx([0.0, -0.2, -0.4, -0.6, -0.8])


def test_an_end_of_zero_replaces_the_ratio():
    weights = [OffDiagonalSchedule(start=2.0, end_ratio=-0.4, end=0.0).weight(x / 4) for x in range(5)]
    assert weights == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0])


@given(
    start=st.floats(0.1, 10),
    ratio=st.floats(-2, 1),
    shape=st.sampled_from(SHAPES),
    steps=st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_every_curve_falls_monotonically_between_its_ends(start, ratio, shape, steps):
    schedule = OffDiagonalSchedule(start, ratio, shape)
    weights = [schedule.weight(x) for x in sorted(steps)]
    assert all(a >= b - 1e-9 for a, b in pairwise(weights))
    low, high = min(start, start * ratio), max(start, start * ratio)
    assert all(low - 1e-9 <= weight <= high + 1e-9 for weight in weights)


def test_the_zero_crossing_of_the_papers_schedule():
    """From 2 to -0.8 the sign turns after 2 / 2.8 = 71.4 % of training."""
    schedule = OffDiagonalSchedule(start=2.0, end_ratio=-0.4)
    weights = [schedule.weight(step / 1000) for step in range(1000)]
    assert sum(weight > 0 for weight in weights) == 715  # step 714 is the last above zero


def step(schedule, loss, global_step, total):
    module, trainer = (
        SimpleNamespace(loss=loss),
        SimpleNamespace(global_step=global_step, estimated_stepping_batches=total),
    )
    schedule.on_fit_start(trainer, module)
    schedule.on_train_batch_start(trainer, module, None, 0)


def test_sets_the_weight_that_the_loss_names_from_the_global_step():
    loss, coupled = SRKDLoss(), CoupledKDLoss()
    step(OffDiagonalSchedule(start=2.0, end_ratio=-0.4), loss, 50, 100)
    assert loss.off_diagonal_weight == pytest.approx(0.6)
    step(OffDiagonalSchedule(start=1.0, end_ratio=-0.5), coupled, 100, 100)
    assert coupled.distillation_weight == pytest.approx(-0.5)


def test_sets_the_part_of_a_sum():
    part = SRKDLoss()
    step(OffDiagonalSchedule(start=-0.7), CombinedLoss({"task": CLIPLoss(), "kd": part}), 0, 100)
    assert part.off_diagonal_weight == pytest.approx(-0.7)


def test_refuses_a_loss_without_a_weight():
    with pytest.raises(ValueError, match="CLIPLoss names no weight"):
        step(OffDiagonalSchedule(), CLIPLoss(), 0, 10)
    with pytest.raises(ValueError, match="SimpleNamespace has no attraction"):
        step(OffDiagonalSchedule(), SimpleNamespace(scheduled="attraction"), 0, 10)


@pytest.mark.parametrize(("key", "value"), [("shape", "zigzag"), ("hold", 0.0), ("hold", 1.5)])
def test_refuses_settings_out_of_range(key, value):
    with pytest.raises(ValueError, match=f"schedule.{key}"):
        OffDiagonalSchedule(**{key: value})


class Skipped(LightningModule):
    """A module whose second step has an infinite loss, which a loss scaler skips."""

    def __init__(self):
        super().__init__()
        self.loss = SRKDLoss()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen = []

    def training_step(self, batch, index):
        rate = self.lr_schedulers().get_last_lr()[0]
        self.seen.append((self.weight.item(), self.loss.off_diagonal_weight, rate))
        return self.weight * (float("inf") if index == 1 else 1.0)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        curve = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / 4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": curve, "interval": "step"}}


def test_a_step_that_float16_skips_advances_weight_and_learning_rate_all_the_same(tmp_path):
    """As docs/reproduce.md says: Lightning counts the step whether or not its loss scaler took it."""
    module = Skipped()
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1.0))
    quiet_trainer(
        tmp_path, OffDiagonalSchedule(start=2.0, end_ratio=-1.0), max_epochs=1, plugins=[scaled]
    ).fit(module, DataLoader(torch.zeros(4, 1)))
    assert module.seen == [(1.0, 2.0, 1.0), (0.0, 1.0, 0.75), (0.0, 0.0, 0.5), (-0.5, -1.0, 0.25)]
