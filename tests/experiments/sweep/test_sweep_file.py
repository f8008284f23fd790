"""Sweep files: the shipped ones, the one-line errors of a local sweep, and the search space."""

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from experiments.sweep.local_settings import grid, local_settings
from experiments.sweep.sweep_file import read_sweep, sweep_names, sweep_path
from experiments.sweep.trial_command import trial_command

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
        assert (settings.metric.name, settings.maximize) == ("best/composite", True)
        assert sweep.command[:4] == ["python", "-m", "experiments", "fit"]
        assert settings.method == "grid" or settings.run_cap == 20, "W&B would propose trials without end"


ACCEPTED = [
    changed(run_cap=3, name="a", description="b", entity="c", project="d", program="train.py"),
    changed(early_terminate={"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3, "strict": False}),
    changed(metric={"name": "a"}),
    changed(metric={"name": "a", "target": 0.9, "impute": "best", "impute_while_running": "false"}),
    changed(kind="sweep", apiVersion="1", controller={"type": "local"}, scheduler={"engine": "wandb"}),
    changed(program="train.py", command=None),
]


@pytest.mark.parametrize("config", ACCEPTED)
def test_settings_of_wandb_are_accepted(config, read):
    local_settings(read(config))


REFUSED = [
    ("method: Input should be 'grid', 'random' or 'bayes'", changed(method="gridd")),
    ("method: Field required", changed(method=None)),
    ("methods: Extra inputs are not permitted", changed(methods="grid")),
    ("run_cap: Input should be greater than 0", changed(run_cap=0)),
    ("command: must be a list of words with ${args}", changed(command="python train.py")),
    ("command: must be a list of words with ${args}", changed(command=["python", "train.py"])),
    ("command: must be a list of words with ${args}", changed(command=None)),
    ("metric: Field required", changed(metric=None)),
    ("metric.goal: Input should be 'minimize' or 'maximize'", changed(metric={"name": "a", "goal": "max"})),
    ("metric.name: Field required", changed(metric={"goal": "maximize"})),
    ("metric.mode: Extra inputs", changed(metric={"name": "a", "mode": "max"})),
    ("metric.target: Input should be a valid number", changed(metric={"name": "a", "target": "high"})),
    ("parameters: Dictionary should have at least 1 item", changed(parameters={})),
    ("parameters.x: Input should be a valid dictionary", changed(parameters={"x": 3})),
    ("parameters.x: `low <= high` must hold", parameter(min=2, max=1)),
    ("parameters.x: needs value, values, or min and max", parameter(min=1)),
    ("parameters.x: could not convert string to float: 'two'", parameter(min=1, max="two")),
    ("parameters.x: int too large", parameter(min=0.5, max=10**400)),
    ("parameters.x: `low > 0` must hold", parameter(min=0, max=1, distribution="log_uniform_values")),
    ("parameters.x: int_uniform needs integers", parameter(min=0, max=1.5, distribution="int_uniform")),
    ("parameters.x: The `choices` must contain one or more elements", parameter(values=[])),
    ("parameters.x: values must be a list", parameter(values="linear")),
    ("parameters.x: probabilities: runs on W&B only", parameter(values=[1, 2], probabilities=[0.5, 0.5])),
    ("parameters.x: normal runs on W&B only; here use one of constant", parameter(distribution="normal")),
    ("parameters.x: a grid needs", changed(method="grid", parameters={"x": {"min": 0.0, "max": 1.0}})),
    (
        "early_terminate.type: Input should be 'hyperband'",
        changed(early_terminate={"type": "median", "min_iter": 1}),
    ),
    ("early_terminate: needs min_iter, or max_iter and s", changed(early_terminate={"type": "hyperband"})),
    (
        "early_terminate.min_iter: Input should be",
        changed(early_terminate={"type": "hyperband", "min_iter": 0}),
    ),
    (
        "early_terminate.eta: Input should be",
        changed(early_terminate={"type": "hyperband", "min_iter": 1, "eta": 1}),
    ),
]


@pytest.mark.parametrize(("error", "config"), REFUSED)
def test_an_unusable_setting_is_named_by_its_key_in_one_line(error, config, read):
    with pytest.raises(ValueError) as refusal:
        local_settings(read(config))
    assert str(refusal.value).partition("sweep.yaml: ")[2].startswith(error)
    assert "\n" not in str(refusal.value)


def test_files_and_names_that_do_not_exist(tmp_path, read):
    with pytest.raises(ValueError, match=r"SWEEP=decy.*did you mean decay.*decay-grid"):
        sweep_path("decy")
    with pytest.raises(FileNotFoundError, match="no such sweep file"):
        read_sweep(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="not valid YAML"):
        read("a: [1")
    with pytest.raises(ValueError, match="must be a mapping"):
        read("[1]")


def test_distributions_are_optunas(read):
    parameters = {
        "a": {"min": 1, "max": 3},
        "b": {"min": 0.0, "max": 1.0, "q": 0.5, "distribution": "q_uniform"},
        "c": {"value": "x"},
        "d": {"min": 0.1, "max": 2, "distribution": "log_uniform_values"},
        "e": {"min": 1, "max": 3, "distribution": "uniform"},
    }
    _, space = local_settings(read(changed(parameters=parameters)))
    assert space == {
        "a": IntDistribution(1, 3),
        "b": FloatDistribution(0.0, 1.0, step=0.5),
        "c": CategoricalDistribution(["x"]),
        "d": FloatDistribution(0.1, 2.0, log=True),
        "e": FloatDistribution(1.0, 3.0),
    }
    cells = grid({name: space[name] for name in "abc"})
    assert cells == [{"a": a, "b": b, "c": "x"} for a in (1, 2, 3) for b in (0.0, 0.5, 1.0)]


def test_without_a_command_wandbs_default_runs_the_program(read):
    command = trial_command(read(changed(program="train.py", command=None)).command, {"x": 1}, "train.py")
    assert command == ["/usr/bin/env", "python", "train.py", "--x=1"]
