"""The W&B side of a sweep, with W&B's own calls in a recorder: nothing here reaches the network."""

import argparse
from types import SimpleNamespace

from experiments import wandb_access
from experiments.run_folder import RUN_VARIABLE, run_folder
from experiments.sweep import __main__ as command_line
from experiments.sweep import wandb_runner
from experiments.sweep.sweep_file import read_sweep, sweep_path
from experiments.sweep.trial_command import trial_command, with_arguments


def test_the_sweep_is_sent_as_the_file_has_it_with_the_extra_arguments(monkeypatch):
    sent = []
    monkeypatch.setattr(
        wandb_runner.wandb, "sweep", lambda config, **where: sent.append((config, where)) or "abc123"
    )
    sweep = read_sweep(sweep_path("decay"))
    assert wandb_runner.create_sweep(sweep, ["--trainer.max_epochs=3"]) == "sonodistill/abc123"
    config, where = sent[0]
    assert where == {"entity": None, "project": "sonodistill"}
    assert config["name"] == "decay"
    assert config["command"][-2:] == ["--trainer.max_epochs=3", "${args}"]
    assert {key: config[key] for key in sweep.config if key != "command"} == {
        key: value for key, value in sweep.config.items() if key != "command"
    }


def test_the_agent_is_wandbs_own(monkeypatch):
    calls = []
    monkeypatch.setattr(
        wandb_runner.subprocess,
        "run",
        lambda command, **_: calls.append(command) or SimpleNamespace(returncode=7),
    )
    assert wandb_runner.run_agent("lab/sonodistill/abc", 5) == 7
    assert wandb_runner.run_agent("lab/sonodistill/abc", None) == 7
    assert calls[0][1:] == ["-m", "wandb", "agent", "--count", "5", "lab/sonodistill/abc"]
    assert calls[1][1:] == ["-m", "wandb", "agent", "lab/sonodistill/abc"]


def test_logged_in_the_sweep_goes_to_wandb(monkeypatch, capsys):
    monkeypatch.setattr(wandb_access, "wandb_mode", lambda: "online")
    monkeypatch.setattr(wandb_runner, "create_sweep", lambda sweep, arguments: f"p/{sweep.name}{arguments}")
    monkeypatch.setattr(wandb_runner, "run_agent", lambda sweep_id, count: (sweep_id, count))
    options = argparse.Namespace(command="run", sweep="decay", local=False, count=4, arguments=["--a=1"])
    assert command_line.run(options) == ("p/decay['--a=1']", 4)
    assert "make sweep-agent ID=p/decay" in capsys.readouterr().out


def test_arguments_of_the_trials_stand_behind_two_dashes():
    options = command_line.parse(["run", "decay", "--count", "4", "--", "--trainer.max_epochs=1", "-c", "a"])
    assert (options.sweep, options.count, options.jobs) == ("decay", 4, 1)
    assert options.arguments == ["--trainer.max_epochs=1", "-c", "a"]
    assert command_line.parse(["run", "decay", "--"]).arguments == []
    assert command_line.parse(["report", "decay"]).arguments == []


def test_a_trial_is_spelled_as_wandbs_agent_spells_it(monkeypatch):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    parameters = {"schedule.init_args.start": 2.5, "schedule.init_args.shape": "linear", "flag": True}
    sweep = read_sweep(sweep_path("decay"))
    theirs = create_sweep_command(with_arguments(sweep.command, ["--x=1"]))
    args = create_sweep_command_args({"args": {name: {"value": v} for name, v in parameters.items()}})
    expected = [word for part in theirs for word in (args["args"] if part == "${args}" else [part])]
    assert trial_command(with_arguments(sweep.command, ["--x=1"]), parameters) == expected


def test_the_other_macros_are_filled_in_too(monkeypatch):
    monkeypatch.setenv("CLUSTER", "gpu1")
    command = [
        "${env}",
        "${interpreter}",
        "${program}",
        "--on=${envvar:CLUSTER}",
        "${args_no_hyphens}",
        "${args}",
    ]
    assert trial_command(command, {"a.b": 1}, "train.py") == [
        "/usr/bin/env", "python", "train.py", "--on=gpu1", "a.b=1", "--a.b=1",
    ]  # fmt: skip


def test_agents_that_start_in_the_same_second_write_apart(monkeypatch):
    folders = []
    for run_id in ("abc", "def"):
        # Set before deleted, so that what `run_folder` puts there is taken back after the test.
        monkeypatch.setenv(RUN_VARIABLE, "")
        monkeypatch.delenv(RUN_VARIABLE)
        monkeypatch.setenv("WANDB_RUN_ID", run_id)
        folders.append(run_folder("srkd", "phantom", 0, None, None))
    assert [folder.name.rpartition("-")[2] for folder in folders] == ["abc", "def"]
