"""Early stopping: trials are compared at W&B's evaluation counts, which lie within those of a shipped sweep's runs."""

import sys

import optuna
import pytest
import yaml

from callbacks import OffDiagonalSchedule
from experiments.recipe_files import BASE, experiment_file, preset_file, preset_names
from experiments.runs.cli import SonoDistillCLI
from experiments.sweep.local_settings import EarlyTerminate, LocalSettings, local_settings
from experiments.sweep.sweep_file import read_sweep, sweep_names, sweep_path, trial_arguments, trial_command

STOPPING = [name for name in sweep_names() if "early_terminate" in read_sweep(sweep_path(name)).config]
QUARTERS = {
    "hc18": 50,
    "planes": 25,
    "shards": 5,
    "table": 5,
    "table-small": 25,
}  # epochs between two evaluations, as the documents advise


class ResolvedError(Exception):
    """Carries the command line's object out of its constructor."""


@pytest.fixture
def trainer(monkeypatch):
    """The trainer's settings of a trial on the phantom, from its resolved command line."""

    def stop(cli):
        raise ResolvedError(cli)

    sweep = read_sweep(sweep_path("decay"))
    command = sweep.command(trial_arguments(sweep, "phantom", []))
    argv = trial_command(command, {"schedule.init_args.start": 4.0})[3:]
    monkeypatch.setattr(sys, "argv", ["experiments", *argv])
    monkeypatch.setattr(SonoDistillCLI, "before_instantiate_classes", stop)
    with pytest.raises(ResolvedError) as caught:
        SonoDistillCLI(argv, argv)
    return caught.value.args[0].config.fit.trainer


def shares(every, last):
    """Return the share of a trial's epochs that lie behind it at each evaluation."""
    return [epoch / last for epoch in sorted({*range(every, last + 1, every), last})]


def judged(name, shares):
    """Return the shares of a run after which its trials are compared, while there is training left to save."""
    stop = local_settings(read_sweep(sweep_path(name)))[0].early_terminate
    bands = [stop.first * stop.eta**k for k in range(10)]
    return [shares[band - 1] for band in bands if band < len(shares)]


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ({"min_iter": 3, "eta": 2}, 3),
        ({"min_iter": 1, "max_iter": 9}, 1),
        ({"max_iter": 27, "s": 2, "eta": 3}, 3),
        ({"max_iter": 5, "s": 4, "eta": 2}, 1),
    ],
)
def test_the_first_comparison_is_wandbs(given, first):
    assert EarlyTerminate(type="hyperband", **given).first == first


@pytest.mark.parametrize(("direction", "worse"), [("maximize", 0.1), ("minimize", 0.9)])
def test_a_study_prunes_the_trial_that_falls_behind_in_its_direction(direction, worse):
    stop = {"type": "hyperband", "min_iter": 2, "eta": 3}
    found = LocalSettings(method="random", metric={"name": "a"}, parameters={}, early_terminate=stop)
    study = optuna.create_study(direction=direction, pruner=found.pruner())
    for _ in range(2):
        good = study.ask()
        for step in (1, 2):
            good.report(0.5, step)
        assert not good.should_prune()
        study.tell(good, 0.5)
    bad = study.ask()
    bad.report(worse, 1)
    assert not bad.should_prune(), "before the first comparison"
    bad.report(worse, 2)
    assert bad.should_prune()


def test_a_shipped_sweep_stops_early():
    assert STOPPING == ["decay"]


def test_a_trial_on_the_phantom_is_judged_before_its_end_and_after_repulsion_began(trainer):
    quarters = shares(trainer.check_val_every_n_epoch, trainer.max_epochs)
    assert quarters == [0.25, 0.5, 0.75, 1.0]
    assert judged("decay", quarters) == [0.75]
    recipe = yaml.safe_load(experiment_file("srkd").read_text())["schedule"]["init_args"]
    schedule = OffDiagonalSchedule(**recipe)
    assert schedule.weight(0.75) < 0 < schedule.weight(0.5)


def test_other_presets_are_judged_as_the_phantom_with_a_quarter_of_their_epochs():
    for preset in {*preset_names()} - {"phantom"}:
        trainers = [
            yaml.safe_load(path.read_text()).get("trainer", {}) for path in (BASE, preset_file(preset))
        ]
        epochs = [trainer["max_epochs"] for trainer in trainers if "max_epochs" in trainer][-1]
        assert judged("decay", shares(QUARTERS[preset], epochs)) == [0.75], preset
