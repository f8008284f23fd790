import pytest
from lightning import Trainer

from callbacks import BiometryEvaluation, CompositeScore, PlaneEvaluation
from tests.callbacks.zero_shot_fakes import PROTOCOL, FakeData, FakeModule


def fit(folder, benchmarks, *callbacks, epochs=3):
    module = FakeModule(teacher=False)
    Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        max_epochs=epochs,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    ).fit(module, datamodule=FakeData(benchmarks))
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


def test_only_in_epochs_in_which_every_part_is_new(tmp_path):
    logged = fit(
        tmp_path,
        ["planes", "hc18"],
        PlaneEvaluation(protocol=PROTOCOL),
        BiometryEvaluation(every_n_epochs=2, protocol=PROTOCOL),
        CompositeScore(),
        epochs=4,
    )
    assert list(by_epoch(logged, "val/planes/f1")) == [0, 1, 2, 3]
    assert list(by_epoch(logged, "val/composite")) == list(by_epoch(logged, "val/hc18/validity")) == [0, 2, 3]


def test_hc18_alone_is_validity(tmp_path):
    logged = fit(
        tmp_path,
        ["hc18"],
        PlaneEvaluation(protocol=PROTOCOL),
        BiometryEvaluation(protocol=PROTOCOL),
        CompositeScore(),
    )
    validity = by_epoch(logged, "val/hc18/validity")
    assert by_epoch(logged, "val/composite") == {
        epoch: pytest.approx(v / 100) for epoch, v in validity.items()
    }


def test_a_named_benchmark_that_nothing_scores_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no evaluation scores the benchmarks \['hc18'\]"):
        fit(tmp_path, ["planes", "hc18"], PlaneEvaluation(protocol=PROTOCOL), CompositeScore())
    fit(
        tmp_path,
        ["planes", "hc18"],
        PlaneEvaluation(protocol=PROTOCOL),
        CompositeScore(benchmarks=["planes"]),
    )


def test_the_order_of_callbacks_is_checked(tmp_path):
    with pytest.raises(ValueError, match="CompositeScore must stand behind the evaluations"):
        fit(tmp_path, ["planes"], CompositeScore(), PlaneEvaluation(protocol=PROTOCOL))


def test_a_benchmark_that_is_left_out_is_no_part_of_the_score(tmp_path):
    logged = fit(
        tmp_path,
        ["planes", "hc18"],
        PlaneEvaluation(protocol=PROTOCOL),
        BiometryEvaluation(protocol=PROTOCOL, benchmarks=[]),
        CompositeScore(),
    )
    assert not by_epoch(logged, "val/hc18/validity")
    f1 = by_epoch(logged, "val/planes/f1")
    assert by_epoch(logged, "val/composite") == {epoch: pytest.approx(value) for epoch, value in f1.items()}
