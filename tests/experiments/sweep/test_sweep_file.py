"""What W&B refuses is refused here, by its key; the shipped sweeps are accepted."""

import pytest
import yaml

from experiments.sweep.sweep_file import problems, read_sweep, sweep_names, sweep_path
from experiments.sweep.trial_command import trial_command

VALID = {
    "method": "random",
    "metric": {"name": "best/composite", "goal": "maximize"},
    "command": ["python", "${args}"],
    "parameters": {"model.learning_rate": {"min": 0.1, "max": 0.5}},
}


def changed(**changes):
    return {**VALID, **changes}


def parameter(**spec):
    return changed(parameters={"x": spec})


@pytest.mark.parametrize("name", sweep_names())
def test_shipped_sweeps_are_valid_and_optimise_the_best_value(name):
    sweep = read_sweep(sweep_path(name))
    assert (sweep.metric, sweep.maximize) == ("best/composite", True)
    assert sweep.command[:4] == ["python", "-m", "experiments", "fit"]


def test_the_promised_sweeps_are_shipped():
    assert sweep_names() == ["decay", "decay-grid", "schedule-shape"]


def without_metric(**changes):
    return {key: value for key, value in changed(**changes).items() if key != "metric"}


@pytest.mark.parametrize("name", sweep_names())
def test_no_shipped_sweep_runs_without_end_on_wandb(name):
    config = read_sweep(sweep_path(name)).config
    assert config["method"] == "grid" or config["run_cap"] == 20


# Verdicts of the schema of W&B's sweep engine 0.3.0 on the same configurations, recorded once.
ACCEPTED = [
    parameter(value=3),
    parameter(values=[1, "a", None]),
    parameter(values=[1, 2], probabilities=[0.25, 0.75]),
    parameter(min=1, max=2),
    parameter(min=1, max=2.5),
    parameter(min=1, max=9, distribution="q_uniform", q=2),
    parameter(min=0.1, max=2, distribution="log_uniform_values"),
    parameter(distribution="normal"),
    parameter(distribution="q_beta", a=1, b=2, q=0.1),
    changed(run_cap=3, name="a", description="b", entity="c", project="d", program="train.py"),
    changed(early_terminate={"type": "hyperband", "min_iter": 2}),
    changed(early_terminate={"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3, "strict": False}),
    changed(metric={"name": "a"}),
    changed(kind="sweep", apiVersion="1", job="a", image_uri="b", controller={"type": "local"}),
    changed(metric={"name": "a", "impute_while_running": "false"}),
    changed(metric={"name": "a", "target": 0.9, "impute": "best"}),
    changed(early_terminate={"type": "hyperband", "min_iter": 1, "max_iter": 9}),
    changed(scheduler={"engine": "wandb"}),
    changed(scheduler={"engine": "wandb", "source": "a.py", "optimizer": "b", "search_space": "c"}),
    {key: value for key, value in changed(program="train.py").items() if key != "command"},
    without_metric(),
    without_metric(method="grid", parameters={"x": {"values": [1, 2]}}),
    changed(command=["python", "${args_json}"]),
    changed(command=["python", "${args_no_hyphens}"]),
    changed(command=["python", "${args_no_boolean_flags}"]),
    changed(command=["python", "${args_no_equals}"]),
    changed(command=["python", "${args_append_hydra}"]),
    changed(command=["python", "${args_override_hydra}"]),
]
REFUSED = [
    ("method", changed(method="gridd")),
    ("methods", changed(methods="grid")),
    ("run_cap", changed(run_cap=0)),
    ("project", changed(project=3)),
    ("command", changed(command="python train.py")),
    ("command", {key: value for key, value in VALID.items() if key != "command"}),
    ("metrics", changed(metrics=3)),
    ("metrics", changed(metrics=[{"name": "a"}, {"name": "b"}])),
    ("scheduler", changed(scheduler="x")),
    ("scheduler", changed(scheduler={"engine": "optuna"})),
    ("scheduler.engin", changed(scheduler={"engine": "wandb", "engin": "wandb"})),
    ("scheduler.source", changed(scheduler={"engine": "wandb", "source": 3})),
    ("scheduler.optimizer", changed(scheduler={"engine": "wandb", "optimizer": "b"})),
    (
        "scheduler",
        changed(scheduler={"engine": "wandb"}, early_terminate={"type": "hyperband", "min_iter": 2}),
    ),
    ("metric", changed(metric=None)),
    ("metric.goal", changed(metric={"name": "a", "goal": "max"})),
    ("metric.name", changed(metric={"goal": "maximize"})),
    ("metric.mode", changed(metric={"name": "a", "mode": "max"})),
    ("metric.impute", changed(metric={"name": "a", "impute": "mean"})),
    ("metric.impute_while_running", changed(metric={"name": "a", "impute_while_running": False})),
    ("controller.type", changed(controller={"type": "laptop"})),
    ("controller.type", changed(controller={})),
    ("kind", changed(kind="run")),
    ("apiVersion", changed(apiVersion=1)),
    ("job", changed(job=["a"])),
    ("image_uri", changed(image_uri=3)),
    ("metric.target", changed(metric={"name": "a", "target": "high"})),
    ("parameters", changed(parameters={})),
    ("parameters.my name", changed(parameters={"my name": {"value": 1}})),
    ("parameters.x", changed(parameters={"x": 3})),
    ("parameters.x.min", parameter(min=2, max=1)),
    ("parameters.x.min", parameter(min=1, max=1)),
    ("parameters.x.max", parameter(min=1)),
    ("parameters.x.max", parameter(min=1, max="two")),
    ("parameters.x.max", parameter(min=1, max=10**400)),
    ("parameters.x.min", parameter(min=-(10**400), max=1.5)),
    ("parameters.x.min", parameter(min=0, max=1, distribution="log_uniform_values")),
    ("parameters.x.max", parameter(min=0, max=1.5, distribution="int_uniform")),
    ("parameters.x.q", parameter(min=0, max=1, q=0, distribution="q_uniform")),
    ("parameters.x.q", parameter(min=0, max=1, q=0.1, distribution="uniform")),
    ("parameters.x.values", parameter(values=[])),
    ("parameters.x.values", parameter(values="linear")),
    ("parameters.x.probabilities", parameter(values=[1, 2], probabilities=[0.5, 0.6])),
    ("parameters.x.probabilities", parameter(values=[1, 2], probabilities=[1.0])),
    ("parameters.x.distribution", parameter(min=0, max=1, distribution="gaussian")),
    ("parameters.x.distribution", parameter(min=0, max=1, distribution="log_uniform")),
    ("parameters.x.value", parameter(value=1, min=0, max=2)),
    ("parameters.x.sigma", parameter(distribution="normal", sigma=-1)),
    ("early_terminate.type", changed(early_terminate={"type": "median"})),
    ("early_terminate", changed(early_terminate={"type": "hyperband"})),
    ("early_terminate", changed(early_terminate={"type": "hyperband", "max_iter": 9})),
    ("early_terminate.min_iter", changed(early_terminate={"type": "hyperband", "min_iter": 0})),
    ("early_terminate.eta", changed(early_terminate={"type": "hyperband", "min_iter": 1, "eta": 1})),
    (
        "early_terminate.patience",
        changed(early_terminate={"type": "hyperband", "min_iter": 1, "patience": 3}),
    ),
    (
        "early_terminate.strict",
        changed(early_terminate={"type": "hyperband", "min_iter": 1, "strict": "yes"}),
    ),
]


@pytest.mark.parametrize("config", ACCEPTED)
def test_what_wandb_accepts_is_accepted(config):
    assert list(problems(config)) == []


@pytest.mark.parametrize(("key", "config"), REFUSED)
def test_what_wandb_refuses_is_refused_by_its_key(key, config, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError) as refusal:
        read_sweep(file)
    named = key if key != "parameters.x.value" else "parameters.x."
    assert str(refusal.value).startswith(f"{file}: {named}")
    assert "\n" not in str(refusal.value)


def test_a_grid_of_a_continuous_parameter_is_refused():
    config = changed(method="grid", parameters={"x": {"min": 0.0, "max": 1.0}})
    ((key, reason),) = problems(config)
    assert key == "parameters.x"
    assert "grid" in reason


def test_a_command_that_never_gets_its_parameters_is_refused():
    ((key, reason),) = problems(changed(command=["python", "train.py"]))
    assert key == "command"
    assert "${args}" in reason


def test_a_macro_that_only_wandbs_agent_can_fill_in_is_named_as_such():
    ((key, reason),) = problems(changed(command=["python", "${args_json_file}"]))
    assert key == "command"
    assert reason.startswith("${args_json_file} is not supported here; use one of ${args}, ")


@pytest.mark.parametrize(
    ("needing", "changes"),
    [
        ("method bayes", {"method": "bayes"}),
        ("early_terminate", {"early_terminate": {"type": "hyperband", "min_iter": 2}}),
    ],
)
def test_what_needs_a_metric_is_named_where_there_is_none(needing, changes):
    assert list(problems(without_metric(**changes))) == [
        ("metric", f"{needing} needs it, with name and goal")
    ]


def test_a_number_of_hundreds_of_digits_is_named_shortly():
    ((key, reason),) = problems(parameter(min=1, max=10**400))
    assert key == "parameters.x.max"
    assert reason.startswith("must be a finite number, not 1000")
    assert len(reason) < 100


def test_without_a_command_wandbs_default_runs_the_program(tmp_path):
    file = tmp_path / "sweep.yaml"
    config = {key: value for key, value in changed(program="train.py").items() if key != "command"}
    file.write_text(yaml.safe_dump(config))
    command = trial_command(read_sweep(file).command, {"x": 1}, "train.py")
    assert command == ["/usr/bin/env", "python", "train.py", "--x=1"]


def test_wrong_names_and_files_say_what_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"SWEEP=decy.*did you mean decay.*decay-grid"):
        sweep_path("decy")
    with pytest.raises(FileNotFoundError, match="no such sweep file"):
        read_sweep(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match="not valid YAML"):
        read_sweep(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(ValueError, match="must be a mapping"):
        read_sweep(tmp_path / "list.yaml")
