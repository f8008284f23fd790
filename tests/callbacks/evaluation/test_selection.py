"""Composite score, benchmarks from the list, and evaluation of the last epoch."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks import BestMetrics, BiometryEvaluation, CompositeScore, EvaluateLastEpoch, PlaneEvaluation
from metrics.benchmarks import BENCHMARKS, Benchmark
from tests.callbacks.tiny import quiet_trainer
from tests.callbacks.zero_shot_fakes import PROTOCOL, FakeData, FakeModule


def fit(folder, benchmarks, *callbacks, epochs=3):
    module = FakeModule(teacher=False)
    quiet_trainer(folder, *callbacks, max_epochs=epochs).fit(module, datamodule=FakeData(benchmarks))
    return module.logged


def by_epoch(logged, name):
    return {epoch: value for epoch, found, value in logged if found == name}


def test_built_from_the_metrics_of_the_same_epoch(tmp_path):
    logged = fit(
        tmp_path,
        ["planes", "subplanes", "hc18"],
        PlaneEvaluation(protocol=PROTOCOL),
        BiometryEvaluation(protocol=PROTOCOL),
        CompositeScore(),
    )
    planes, subplanes, validity = (
        by_epoch(logged, f"val/{name}") for name in ("planes/f1", "subplanes/f1", "hc18/validity")
    )
    composite = by_epoch(logged, "val/composite")
    assert list(composite) == [0, 1, 2]
    for epoch, value in composite.items():
        expected = ((5 * planes[epoch] + 3 * subplanes[epoch]) / 8 + validity[epoch] / 100) / 2
        assert value == pytest.approx(expected, abs=1e-9)


def test_hc18_alone_is_validity(tmp_path):
    logged = fit(
        tmp_path,
        ["hc18"],
        PlaneEvaluation(protocol=PROTOCOL),
        BiometryEvaluation(protocol=PROTOCOL),
        CompositeScore(),
        epochs=1,
    )
    validity = by_epoch(logged, "val/hc18/validity")
    assert by_epoch(logged, "val/composite") == {
        epoch: pytest.approx(v / 100) for epoch, v in validity.items()
    }


def test_a_benchmark_that_is_left_out_is_not_part_of_the_score(tmp_path):
    logged = fit(
        tmp_path,
        ["planes", "hc18"],
        PlaneEvaluation(protocol=PROTOCOL),
        BiometryEvaluation(protocol=PROTOCOL, benchmarks=[]),
        CompositeScore(),
        epochs=1,
    )
    assert not by_epoch(logged, "val/hc18/validity")
    f1 = by_epoch(logged, "val/planes/f1")
    assert by_epoch(logged, "val/composite") == {epoch: pytest.approx(value) for epoch, value in f1.items()}


def test_a_benchmark_added_to_the_list_is_scored_and_selects(tmp_path, monkeypatch):
    added = Benchmark(
        "views",
        "view F1",
        "view",
        kind="classification",
        corpus="planes",
        label="plane",
        prompts="planes",
        headline="f1",
    )
    monkeypatch.setitem(BENCHMARKS, "views", added)
    logged = fit(
        tmp_path, ["subplanes", "views"], PlaneEvaluation(protocol=PROTOCOL), CompositeScore(), epochs=1
    )
    views, subplanes = (by_epoch(logged, f"val/{name}/f1")[0] for name in ("views", "subplanes"))
    assert by_epoch(logged, "val/composite")[0] == pytest.approx((views + 3 * subplanes) / 4)


def test_the_best_value_is_never_one_that_is_not_a_number():
    best, logged = BestMetrics(), []
    module = SimpleNamespace(log=lambda name, value, **_: logged.append((name, value)))
    for value in (math.nan, 0.4, 0.3, math.nan):
        metrics = {"val/composite": torch.tensor(value, dtype=torch.float64)}
        best.on_validation_epoch_end(SimpleNamespace(sanity_checking=False, callback_metrics=metrics), module)
    assert logged == [("best/composite", 0.4)] * 3


@pytest.mark.parametrize(("own", "best"), [(True, 0.75), (False, 0.5)])
def test_a_resumed_run_remembers_the_best_value_before_it_but_not_that_of_another_run(tmp_path, own, best):
    logged, before, resumed = {}, BestMetrics(), BestMetrics()
    trainer = SimpleNamespace(
        sanity_checking=False,
        callback_metrics={"val/composite": torch.tensor(0.75)},
        default_root_dir=tmp_path,
    )
    if own:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "best.ckpt").touch()
    module = SimpleNamespace(log=lambda name, value, **_: logged.update({name: value}))
    before.on_validation_epoch_end(trainer, module)
    resumed.load_state_dict(before.state_dict())
    resumed.on_train_start(trainer, module)
    trainer.callback_metrics["val/composite"] = torch.tensor(0.5)
    resumed.on_validation_epoch_end(trainer, module)
    assert logged == {"best/composite": best}


class Evaluated(Callback):
    def __init__(self):
        self.epochs, self.steps = [], []

    def on_validation_start(self, trainer, pl_module):
        self.epochs.append(trainer.current_epoch + 1)
        self.steps.append(trainer.global_step)


def evaluated(folder, **settings):
    seen = Evaluated()
    quiet_trainer(
        folder, EvaluateLastEpoch(), seen, limit_val_batches=1, num_sanity_val_steps=0, **settings
    ).fit(BoringModel())
    return seen


@pytest.mark.parametrize(
    ("every", "epochs", "expected"),
    [(2, 5, [2, 4, 5]), (2, 4, [2, 4]), (9, 3, [3]), (1, 2, [1, 2]), (3, 1, [1])],
)
def test_the_last_epoch_is_evaluated_beside_every_nth(every, epochs, expected, tmp_path):
    seen = evaluated(tmp_path, max_epochs=epochs, check_val_every_n_epoch=every, limit_train_batches=1)
    assert seen.epochs == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_steps": 3}, [3]),
        ({"max_steps": 11, "check_val_every_n_epoch": 2}, [8, 11]),
        ({"max_steps": 8, "check_val_every_n_epoch": 3}, [8]),
        ({"max_steps": 4, "accumulate_grad_batches": 2, "max_epochs": 9}, [2, 4]),
        ({"max_steps": 7, "val_check_interval": 3, "check_val_every_n_epoch": None}, [3, 6, 7]),
        ({"max_steps": 99, "max_epochs": 1}, [4]),
    ],
)
def test_a_training_that_max_steps_ends_is_evaluated_at_its_last_step(settings, expected, tmp_path):
    assert evaluated(tmp_path, limit_train_batches=4, **settings).steps == expected
