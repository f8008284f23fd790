"""Sweeps on W&B, with its calls recorded: nothing reaches the network."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from wandb.errors import CommError

from experiments import __main__ as front_door
from experiments import process
from experiments.commands import sweep as command_line
from experiments.recipe_files import ROOT, preset_file
from experiments.runs import wandb_access
from experiments.runs.run_folder import RUN_VARIABLE, requeued_checkpoint, run_folder
from experiments.sweep import local_runner, wandb_runner
from experiments.sweep.local_settings import Parameter
from experiments.sweep.sweep_file import SweepFile, as_typed, read_sweep, sweep_path, trial_command
from tests.conftest import wait_until


def test_the_sweep_file_is_sent_with_the_extra_arguments(monkeypatch):
    sent = []
    monkeypatch.setattr(
        wandb_runner.wandb, "sweep", lambda config, **where: sent.append((config, where)) or "abc123"
    )
    sweep = read_sweep(sweep_path("decay"))
    monkeypatch.setenv("WANDB_ENTITY", "lab")  # W&B puts the default entity there
    assert wandb_runner.create_sweep(sweep, ["--trainer.max_epochs=3"]) == "lab/sonodistill/abc123"
    config, where = sent[0]
    assert where == {"entity": None, "project": "sonodistill"}
    assert config["name"] == "decay"
    assert config["command"][-2:] == ["--trainer.max_epochs=3", "${args}"]
    assert {key: config[key] for key in sweep.config if key != "command"} == {
        key: value for key, value in sweep.config.items() if key != "command"
    }
    wandb_runner.create_sweep(sweep, [], "mine")
    assert sent[1][0]["name"] == "mine"


@pytest.mark.parametrize(
    ("cap", "count", "sent_cap"), [(20, None, 20), (20, 5, 20), (20, 40, 40), (None, 40, None)]
)
def test_a_greater_count_raises_the_cap_of_the_sweep(cap, count, sent_cap, monkeypatch):
    sent = []
    monkeypatch.setattr(wandb_runner.wandb, "sweep", lambda config, **_: sent.append(config) or "abc123")
    sweep = read_sweep(sweep_path("schedule-shape"))
    sweep = SweepFile(sweep.path, {**sweep.config, **({} if cap is None else {"run_cap": cap})})
    wandb_runner.create_sweep(sweep, [], None, count)
    assert sent[0].get("run_cap") == sent_cap


@pytest.mark.parametrize(
    ("count", "jobs", "counts"),
    [(5, 1, ["5"]), (None, 1, [None]), (5, 2, ["2", "3"]), (1, 3, ["1"]), (None, 2, [None, None])],
)
def test_the_agents_are_wandbs_own_and_share_the_count(monkeypatch, count, jobs, counts):
    calls = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(
        wandb_runner, "run_children", lambda *given: calls.append(given) or [0] * (len(counts) - 1) + [7]
    )
    assert wandb_runner.run_agents("lab/sonodistill/abc", count, jobs) == 7
    ((commands, environment),) = calls
    limits = [[] if count is None else ["--count", count] for count in counts]
    words = [["-m", "wandb", "agent", "--forward-signals", *limit, "lab/sonodistill/abc"] for limit in limits]
    assert [command[1:] for command in commands] == words
    assert ("OMP_NUM_THREADS" in environment) == (jobs > 1)


# Starts its trial with W&B's own class, which decides what signals of the agent a trial receives.
AGENT = """
import os, sys
sys.path[:] = [folder for folder in sys.path if folder != os.getcwd()]
for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
    del sys.modules[name]
from wandb.wandb_agent import AgentProcess, ShutdownSignal
trial = AgentProcess(
    env=dict(os.environ),
    command=[sys.executable, "trial.py"],
    forward_signals="--forward-signals" in sys.argv,
)
ended = False
while not ended:  # a signal to the group comes from the runner, too
    try:
        trial.wait()
        ended = True
    except (KeyboardInterrupt, ShutdownSignal):
        pass
"""
TRIAL = """
import pathlib, signal, sys, time
def end(number, _):
    time.sleep(0.2)
    pathlib.Path("told").write_text(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
pathlib.Path("ready").touch()
time.sleep(60)
"""


def start_agent(folder):
    """Start ``make sweep-agent`` with a script in place of W&B's agent.

    A package in the current folder shadows W&B's ``__main__`` and takes everything else from it.
    """
    real = str(Path(wandb_runner.wandb.__file__).parent)
    (folder / "wandb").mkdir(parents=True)
    (folder / "wandb/__init__.py").write_text(
        f"__path__.append({real!r})\nexec(open({real!r} + '/__init__.py').read())\n"
    )
    (folder / "wandb/__main__.py").write_text(AGENT)
    (folder / "trial.py").write_text(TRIAL)
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", "sweep", "agent", "lab/sonodistill/abc"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{Path(__file__).resolve().parents[3]}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_a_signal_reaches_the_trial_and_the_runner_waits_for_it(tmp_path):
    """A scheduler sends SIGTERM to the runner or to its whole group, a terminal SIGINT; the trial has its own group."""
    sent = {signal.SIGTERM: os.kill, signal.SIGINT: os.killpg}
    runs = {number: start_agent(tmp_path / number.name) for number in sent}
    for number, run in runs.items():
        ready = tmp_path / number.name / "ready"
        wait_until(lambda: ready.exists() or run.poll() is not None, seconds=120)  # noqa: B023
        sent[number](run.pid, number)
    for number, run in runs.items():
        output, _ = run.communicate(timeout=60)
        assert (tmp_path / number.name / "told").read_text() == str(int(number)), output
        assert run.returncode == 128 + number
        assert "Traceback" not in output


def test_logged_in_the_sweep_goes_to_wandb(monkeypatch, capsys):
    monkeypatch.setattr(wandb_access, "wandb_mode", lambda: "online")
    monkeypatch.setattr(wandb_runner, "create_sweep", lambda sweep, *given: f"e/p/{sweep.name}{given}")
    monkeypatch.setattr(wandb_runner, "run_agents", lambda *given: given)
    words = ["run", "decay", "--count", "4", "--jobs", "2", "--name", "mine", "--", "--a=1"]
    assert command_line.main(words) == ("e/p/decay(['--a=1'], 'mine', 4)", 4, 2)
    assert "make sweep-agent ID=e/p/decay" in capsys.readouterr().out
    assert command_line.main(["agent", "a/b/c", "--jobs", "3"]) == ("a/b/c", None, 3)


def test_data_and_weights_reach_every_trial(monkeypatch, tmp_path):
    """``make sweep DATA=hc18 TEACHER=... HC18_ROOT=...`` trains on the same data as ``make train``."""
    monkeypatch.setattr(wandb_access, "wandb_mode", lambda: "online")
    monkeypatch.setattr(
        wandb_runner, "create_sweep", lambda _, arguments, *__: sent.extend(arguments) or "p/a"
    )
    monkeypatch.setattr(wandb_runner, "run_agents", lambda *_: 0)
    monkeypatch.setenv("HC18_ROOT", "/data/HC18")
    sent, teacher = [], tmp_path / "teacher.pt"
    teacher.touch()
    words = ["run", "decay", "--data", "hc18", "--", f"--teacher={teacher}", "--trainer.max_epochs=1"]
    assert command_line.main(words) == 0
    config, root, weights, epochs = sent
    assert Path(config.removeprefix("--config=")).resolve() == preset_file("hc18")
    assert not Path(config.removeprefix("--config=")).is_absolute(), "another machine has it elsewhere"
    assert root == "--data.init_args.root=/data/HC18"
    assert weights.startswith("--model.teacher={")
    assert str(teacher) in weights
    assert epochs == "--trainer.max_epochs=1"


@pytest.mark.parametrize(
    ("words", "error"),
    [(["--data", "hc81"], "DATA=hc81: no such data preset"), (["--", "--teacher=none.pt"], "TEACHER=")],
)
def test_wrong_data_and_weights_are_rejected_before_anything_starts(words, error):
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        command_line.main(["run", "decay", "--local", *words])


def test_an_unreachable_wandb_is_one_line_with_a_remedy(monkeypatch, capsys):
    def fail(*_):
        raise CommError("no\nnetwork")

    monkeypatch.setattr(wandb_access, "wandb_mode", lambda: "online")
    monkeypatch.setattr(wandb_runner, "create_sweep", fail)
    monkeypatch.setattr(sys, "argv", ["experiments", "sweep", "run", "decay"])
    with pytest.raises(SystemExit) as stop:
        front_door.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: W&B: no network; without network: WANDB_MODE=offline\n"


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("offline", "W&B: WANDB_MODE=offline, so the trials logged offline; later: "),
        ("disabled", "W&B: WANDB_MODE=disabled, so nothing was logged there"),
    ],
)
def test_a_local_sweep_names_why_it_is_not_on_wandb(mode, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("experiments").symlink_to(ROOT.parent)
    Path("outputs/srkd/decay-20260101-120000-000/wandb/offline-run-1").mkdir(parents=True)
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(local_runner, "run_locally", lambda *_: 0)
    assert command_line.main(["run", "decay"]) == 0
    printed = capsys.readouterr().out
    assert said in printed
    assert "not logged in" not in printed


def test_without_offline_runs_nothing_is_said_of_wandb(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("experiments").symlink_to(ROOT.parent)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(local_runner, "run_locally", lambda *_: 1)
    assert command_line.main(["run", "decay"]) == 1
    assert "W&B" not in capsys.readouterr().out


def test_arguments_of_the_trials_follow_two_dashes():
    options = command_line.parse(["run", "decay", "--count", "4", "--", "--trainer.max_epochs=1", "-c", "a"])
    assert (options.sweep, options.count, options.jobs) == ("decay", 4, 1)
    assert options.arguments == ["--trainer.max_epochs=1", "-c", "a"]
    assert command_line.parse(["run", "decay", "--"]).arguments == []
    assert command_line.parse(["report", "decay"]).arguments == []


@pytest.mark.slow  # seconds of imports
def test_a_trial_is_spelled_as_wandbs_agent_spells_it(monkeypatch):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    parameters = {
        "start": 2.5, "shape": "linear", "flag": True, "none": None, "betas": [0.9, 0.98], "loss": {"class_path": "A"},
    }  # fmt: skip
    sweep = read_sweep(sweep_path("decay"))
    theirs = create_sweep_command(sweep.command(["--x=1"]))
    args = create_sweep_command_args({"args": {name: {"value": v} for name, v in parameters.items()}})
    expected = [word for part in theirs for word in (args["args"] if part == "${args}" else [part])]
    ours = {name: Parameter(value=value).optuna().choices[0] for name, value in parameters.items()}
    assert trial_command(sweep.command(["--x=1"]), ours) == expected


@pytest.mark.parametrize("name", ["python", "python3"])
def test_printed_commands_start_with_this_python(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process.sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert as_typed([name, "-m", "x", "--a=b c"]) == shlex.join([".venv/bin/python", "-m", "x", "--a=b c"])
    monkeypatch.setattr(process.sys, "executable", "/opt/env/bin/python3.11")
    assert as_typed([name, "a.py"]) == "/opt/env/bin/python3.11 a.py"
    assert as_typed(["/opt/other/bin/python", "a.py"]) == "/opt/other/bin/python a.py"


def test_agents_that_start_in_the_same_second_write_apart(monkeypatch):
    folders = []
    for run_id in ("abc", "def"):
        # Set before deleted, so that what `run_folder` puts there is taken back after the test.
        monkeypatch.setenv(RUN_VARIABLE, "")
        monkeypatch.delenv(RUN_VARIABLE)
        monkeypatch.setenv("WANDB_RUN_ID", run_id)
        folders.append(run_folder("srkd", "phantom", 0, None, None))
    assert [folder.name.rpartition("-")[2] for folder in folders] == ["abc", "def"]


def test_a_run_outside_a_sweep_or_of_another_id_is_not_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    checkpoint = Path("outputs/srkd/phantom-s0-20260101-120000-abc/checkpoints/last.ckpt")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert requeued_checkpoint("srkd", "phantom", 0) == checkpoint
    monkeypatch.setenv("WANDB_RUN_ID", "bc")
    assert requeued_checkpoint("srkd", "phantom", 0) is None, "another run, whose id is a suffix of this one"
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    monkeypatch.delenv("WANDB_SWEEP_ID")
    assert requeued_checkpoint("srkd", "phantom", 0) is None
