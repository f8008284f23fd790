"""Steps of a range, and the share of trials that early stopping lets go on."""

import optuna
import pytest

from experiments.sweep.local_settings import LocalSettings, Parameter, grid


def test_a_range_of_integers_is_searched_in_its_steps():
    stepped = Parameter(min=32, max=128, q=32, distribution="q_uniform").optuna()
    assert grid({"width": stepped}) == [{"width": width} for width in (32, 64, 96, 128)]


@pytest.mark.parametrize(("eta", "stopped"), [(2, False), (4, True)])
def test_the_best_of_eta_trials_go_on(eta, stopped):
    settings = LocalSettings(
        method="random",
        metric={"name": "a"},
        parameters={},
        early_terminate={"type": "hyperband", "eta": eta},
    )
    study = optuna.create_study(direction="maximize", pruner=settings.pruner())
    for value in (0.9, 0.1, 0.2):
        earlier = study.ask()
        earlier.report(value, 1)
        earlier.should_prune()
        study.tell(earlier, value)
    second = study.ask()  # among the best half of four, not the best quarter
    second.report(0.5, 1)
    assert second.should_prune() == stopped
