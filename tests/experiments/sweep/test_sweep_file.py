"""Sweep files: the shipped ones, the one-line errors of a local sweep, and the search space."""

from datetime import date
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from experiments.sweep.local_settings import grid, local_settings, without_effect
from experiments.sweep.sweep_file import read_sweep, sweep_names, sweep_path, trial_arguments, trial_command

VALID = {
    "method": "random",
    "metric": {"name": "best/composite", "goal": "maximize"},
    "command": ["python", "${args}"],
    "parameters": {"model.learning_rate": {"min": 0.1, "max": 0.5}},
}


def changed(**changes):
    return {key: value for key, value in {**VALID, **changes}.items() if value is not None}


def parameter(**spec):
    return changed(parameters={"x": spec})


def stopped(**keys):
    return changed(early_terminate={"type": "hyperband", **keys})


@pytest.fixture
def read(tmp_path):
    def read(config):
        file = tmp_path / "sweep.yaml"
        file.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
        return read_sweep(file)

    return read


def test_the_shipped_sweeps_run_here_and_end_on_wandb():
    assert sweep_names() == ["decay", "decay-grid", "schedule-shape"]
    for name in sweep_names():
        sweep = read_sweep(sweep_path(name))
        settings, _ = local_settings(sweep)
        assert (settings.metric.name, settings.metric.goal) == ("best/composite", "maximize")
        assert sweep.command()[:4] == ["python", "-m", "experiments", "fit"]
        assert "--score_test_patients=false" in sweep.command(), "a search must not see the test patients"
        assert settings.method == "grid" or settings.run_cap == 20, "W&B would propose trials without end"


def test_settings_that_act_on_wandb_only_are_accepted_and_named(read):
    metric = {"name": "a", "target": 0.9, "impute": "best"}
    stop = {"type": "hyperband", "min_iter": 2, "strict": True}
    more = {"name": "a", "project": "d", "scheduler": {"engine": "wandb"}}
    settings, _ = local_settings(read(changed(metric=metric, early_terminate=stop, **more)))
    assert without_effect(settings) == ["scheduler", "metric.impute", "early_terminate.strict"]


def test_a_sweep_in_another_folder_is_refused_before_any_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"decay.yaml: its command names experiments/recipes/srkd.yaml, which"
    ):
        trial_arguments(read_sweep(sweep_path("decay")), "phantom", [])


REFUSED = [
    ("method: Input should be 'grid', 'random' or 'bayes'", changed(method="gridd")),
    ("method: Field required", changed(method=None)),
    ("needs a command, a list of words with ${args}", changed(command="python train.py")),
    ("needs a command, a list of words with ${args}", changed(command=["python", "train.py"])),
    ("needs a command, a list of words with ${args}", "[1]"),
    ("not YAML", "a: [1"),
    ("metric: Field required", changed(metric=None)),
    ("metric.goal: Input should be 'minimize' or 'maximize'", changed(metric={"name": "a", "goal": "max"})),
    ("parameters.x: Input should be a valid dictionary", changed(parameters={"x": 3})),
    ("parameters.x: ", parameter(min=2, max=1)),
    ("parameters.x: needs value, values, or min and max", parameter(min=1)),
    ("parameters.x: ", parameter(min=0, max=1, distribution="log_uniform_values")),
    ("parameters.x: The `choices` must contain one or more elements", parameter(values=[])),
    ("parameters.x.values: Input should be a valid list", parameter(values="linear")),
    ("parameters.x.values.0: input was not a valid JSON value", parameter(values=[date(2026, 1, 2)])),
    ("parameters.x.probabilities: Extra inputs", parameter(values=[1, 2], probabilities=[0.5, 0.5])),
    ("parameters.x.distribution: Input should be 'constant'", parameter(distribution="normal")),
    ("parameters.x: a grid needs", changed(method="grid", parameters={"x": {"min": 0.0, "max": 1.0}})),
    ("early_terminate.type: Input should be 'hyperband'", changed(early_terminate={"type": "median"})),
    ("early_terminate.min_itr: Extra inputs are not permitted", stopped(min_itr=3)),
    ("early_terminate.min_iter: Input should be greater than or equal to 1, not 0", stopped(min_iter=0)),
    ("early_terminate.eta: Input should be greater than 1, not 1", stopped(eta=1)),
    ("early_terminate.max_iter: Input should be greater", stopped(max_iter=0, s=1)),
    ("early_terminate.s: Input should be greater", stopped(max_iter=9, s=-1)),
    ("run_cap: Input should be greater than or equal to 1, not 0", changed(run_cap=0)),
    ("runcap: Extra inputs are not permitted", changed(runcap=3)),
    ("metric.gaol: Extra inputs are not permitted", changed(metric={"name": "a", "gaol": "maximize"})),
]


@pytest.mark.parametrize(("error", "config"), REFUSED)
def test_an_unusable_setting_is_named_by_its_key_in_one_line(error, config, read):
    with pytest.raises(ValueError) as refusal:
        local_settings(read(config))
    assert str(refusal.value).partition("sweep.yaml: ")[2].startswith(error)
    assert "\n" not in str(refusal.value)


def test_files_and_names_that_do_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"SWEEP=decy.*did you mean decay.*decay-grid"):
        sweep_path("decy")
    with pytest.raises(FileNotFoundError, match="no such sweep file"):
        read_sweep(tmp_path / "none.yaml")


def test_distributions_are_optunas(read):
    parameters = {
        "a": {"min": 1, "max": 3},
        "b": {"min": 0.0, "max": 1.0, "q": 0.5, "distribution": "q_uniform"},
        "c": {"value": "x"},
        "d": {"min": 0.1, "max": 2, "distribution": "log_uniform_values"},
        "e": {"min": 1, "max": 3, "distribution": "uniform"},
        "f": {"values": [[0.9, 0.98], {"b": ["c"]}, "d", 1, 0.5, True, None]},
    }
    _, space = local_settings(read(changed(parameters=parameters)))
    assert space == {
        "a": IntDistribution(1, 3),
        "b": FloatDistribution(0.0, 1.0, step=0.5),
        "c": CategoricalDistribution(["x"]),
        "d": FloatDistribution(0.1, 2.0, log=True),
        "e": FloatDistribution(1.0, 3.0),
        "f": CategoricalDistribution(["[0.9, 0.98]", '{"b": ["c"]}', "d", 1, 0.5, True, "null"]),
    }
    cells = grid({name: space[name] for name in "abc"})
    assert cells == [{"a": a, "b": b, "c": "x"} for a in (1, 2, 3) for b in (0.0, 0.5, 1.0)]


@pytest.mark.parametrize(
    "value", [None, [0.9, None], {"name": "a", "most": None, "on": True}, "linear", True, 3]
)
def test_a_value_reaches_a_trial_here_and_on_wandb(read, value):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--x", type=Any, default="not given")
    for spec in ({"value": value}, {"values": [value]}):
        sweep = read(parameter(**spec))
        (cell,) = grid(local_settings(sweep)[1])
        given = sweep.config["parameters"]["x"]
        chosen = given["value"] if "value" in given else given["values"][0]
        agent = create_sweep_command_args({"args": {"x": {"value": chosen}}})["args"]
        for words in (trial_command(sweep.command(), cell)[1:], agent):
            assert parser.parse_args(words).x == value
