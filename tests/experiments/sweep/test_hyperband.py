"""The early stopping rule, against what W&B's own engine decides."""

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from experiments.sweep.hyperband import HyperbandRule, bands
from experiments.sweep.interruption import REASON

# Histories and the runs that `sweeps.hyperband_stopping.hyperband_stop_runs` (version 0.3.0) stops of them.
RECORDED = [
    (
        {"max_iter": 27, "s": 3, "eta": 3, "strict": False},
        True,
        [
            [0.06, 0.32],
            [0.97, 0.11, 0.22, 0.62, 0.98, 0.54, 0.69, 0.66, 0.26, 0.54],
            [0.2, 0.36, 0.82, 0.09, 0.75],
            [0.65, 0.64],
            [0.39, 0.31, 0.33, 0.32],
            [0.89, 0.3, 0.33, 0.54, 0.58, 0.6, 0.25, 0.02, 0.24, 0.07],
            [0.87, 0.73, 0.02, 0.01, 0.75, 0.36, 0.47, 0.86, 0.1],
        ],
        [0, 3],
    ),
    (
        {"max_iter": 5, "s": 2, "eta": 3},
        False,
        [
            [0.14, 0.25, 0.77, 0.68, 0.04, 0.08],
            [1.0, 0.3, 0.25, 0.53, 0.36, 0.08, 0.93, 0.37, 0.72, 0.69, 0.09, 0.33],
            [0.52],
            [0.96, 0.11, 0.92, 0.79, 0.72, 0.13],
            [0.41, 0.68, 0.62, 0.53, 0.56],
            [0.93, 0.3, 0.22, 0.3, 0.13, 0.6, 0.11, 0.24, 0.9],
        ],
        [1, 3, 5],
    ),
    (
        {"max_iter": 9, "s": 3, "eta": 3, "strict": False},
        False,
        [
            [0.88, 0.2, 0.81, 0.9, 0.02, 0.57, 0.01, 0.3, 0.67, 0.72],
            [0.14, 0.5, 0.57, 0.31, 0.5, 0.36, 0.53, 0.0, 0.44, 0.45, 0.3],
            [0.34, 0.73, 0.57, 0.11, 0.92, 0.38, 0.56],
            [0.64, 0.72, 0.74, 0.73, 0.2],
        ],
        [],
    ),
]


@pytest.mark.parametrize(("settings", "maximize", "histories", "stopped"), RECORDED)
def test_the_same_trials_are_stopped_as_on_wandb(settings, maximize, histories, stopped):
    rule = HyperbandRule(settings, maximize)
    losses = [[-value if maximize else value for value in history] for history in histories]
    assert [i for i, own in enumerate(losses) if rule.stops(own, losses)] == stopped


def test_bands_rise_from_min_iter_or_fall_from_max_iter():
    assert bands({"min_iter": 3, "eta": 3})[:4] == [3, 9, 27, 81]
    assert bands({"min_iter": 2})[:3] == [2, 6, 18]
    assert bands({"max_iter": 27, "s": 2, "eta": 3}) == [3, 9]
    assert bands({"max_iter": 5, "s": 4, "eta": 2}) == [1, 2]


@pytest.mark.parametrize(("direction", "worse"), [("maximize", 0.1), ("minimize", 0.9)])
def test_a_study_prunes_the_trial_that_falls_behind_in_its_direction(direction, worse):
    rule = HyperbandRule({"min_iter": 2, "eta": 3}, direction == "maximize")
    study = optuna.create_study(direction=direction, pruner=rule)
    for _ in range(2):
        good = study.ask()
        for step in (1, 2):
            good.report(0.5, step)
        assert not good.should_prune()
        study.tell(good, 0.5)
    bad = study.ask()
    bad.report(worse, 1)
    assert not bad.should_prune(), "before the first band nothing is compared"
    bad.report(worse, 2)
    assert bad.should_prune()


def test_without_a_number_of_bands_from_above_they_rise_from_the_least():
    assert bands({"min_iter": 1, "max_iter": 9})[:3] == [1, 3, 9]
    assert bands({"min_iter": 1, "max_iter": 27, "s": 2}) == [3, 9]


def past_trial(score, **more):
    values = {"params": {"x": score}, "distributions": {"x": FloatDistribution(0, 1)}}
    return create_trial(**values, intermediate_values=dict.fromkeys((1, 2, 3), score), **more)


def stopped_beside(*trials):
    """Say whether a trial that is at 0.8 after three evaluations is stopped; the better half goes on."""
    rule = HyperbandRule({"min_iter": 3, "eta": 2}, maximize=True)
    study = optuna.create_study(direction="maximize", pruner=rule)
    study.add_trials(trials)
    own = study.ask({"x": FloatDistribution(0, 1)})
    for step in (1, 2, 3):
        own.report(0.8, step)
    return own.should_prune()


def test_an_interrupted_trial_whose_settings_ran_again_is_no_second_rival():
    done = past_trial(0.9, value=0.9, state=TrialState.COMPLETE)
    interrupted = past_trial(0.9, state=TrialState.FAIL)
    failed = past_trial(0.9, state=TrialState.FAIL, user_attrs={REASON: "exit status 1"})
    assert not stopped_beside(done), "of two, rank 2 / 2 is the worse one"
    assert not stopped_beside(interrupted, done)
    assert stopped_beside(failed, done), "a run of its own, as on W&B"
