"""Sweeps on this machine, with a small script in place of training."""

import datetime
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import optuna
import pytest

from experiments import __main__ as front_door
from experiments.commands import sweep as command_line
from experiments.sweep import local_runner
from experiments.sweep.local_runner import run_locally
from experiments.sweep.local_study import LocalStudy, load, sweep_folder, was_interrupted
from experiments.sweep.sweep_file import read_sweep, sweep_path
from experiments.sweep.sweep_report import compared, report
from experiments.sweep.trial_process import logged
from tests.conftest import wait_until
from tests.experiments.sweep.tiny_sweep import SCRIPT, seen, states, sweep, write_sweep

pytestmark = pytest.mark.usefixtures("own_folder")


def test_a_grid_runs_every_cell_in_order_and_finds_the_best():
    status, study = sweep()
    assert status == 0
    assert [trial.params["model.x"] for trial in study.trials] == [1, 2, 3, 4]
    assert [trial.value for trial in study.trials] == pytest.approx([0.9, 1.0, 0.9, 0.6])
    assert study.best_trial.params == {"model.x": 2.0}
    assert [list(t.intermediate_values.values()) for t in study.trials][1] == [0.25, 0.5, 0.75, 1.0]


def test_trials_share_one_group_have_runs_of_their_own_and_a_command_to_repeat():
    _, study = sweep(arguments=["--trainer.max_epochs=1"])
    groups, commands = {seen(trial)[0] for trial in study.trials}, [seen(trial)[2] for trial in study.trials]
    assert groups == {study.study_name}
    assert len({trial.user_attrs["run"] for trial in study.trials}) == 4
    assert commands[2] == "--trainer.max_epochs=1 --model.x=3.0"
    assert study.trials[2].user_attrs["command"] == f"python {SCRIPT} {commands[2]}"


def test_a_sweep_file_may_hold_a_date(tmp_path):
    opened = write_sweep(name=datetime.date(2026, 1, 5))
    for _ in range(2):  # and it is resumed
        LocalStudy.open(opened, tmp_path, [], 0)


def test_a_failed_trial_is_recorded_with_its_reason(capsys):
    status, study = sweep(options=["--mode=crash-at-3"])
    assert status == 0
    assert states(study) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[2].user_attrs["reason"] == "exit status 2: error: x must not be 3"
    assert "x must not be 3" in capsys.readouterr().out


def test_a_missing_program_fails_the_trial(capsys):
    write_sweep()
    text = Path("tiny.yaml").read_text().replace("- python\n", "- nopython\n")
    Path("tiny.yaml").write_text(text)
    folder = Path("outputs/sweeps/tiny")
    assert run_locally(read_sweep(Path("tiny.yaml")), folder, None, 1, []) == 1
    trials = load(folder).trials
    assert [trial.state.name for trial in trials] == ["FAIL"] * local_runner.MAX_INITIAL_FAILURES + [
        "WAITING"
    ]
    assert not any(was_interrupted(trial) for trial in trials)
    reason = "command: nopython: No such file or directory"
    assert trials[0].user_attrs["reason"] == reason
    printed = capsys.readouterr().out
    assert f"trial 0: FAILED, {reason}" in printed
    assert "the first 3 trials failed" in printed


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_sweep_whose_first_trials_all_fail_stops(jobs, capsys):
    status, study = sweep(
        jobs=jobs, options=["--mode=forget"], parameters={"model.x": {"values": list(range(9))}}
    )
    assert status == 1
    # Trials beside the third failure were started before it was seen, or not, as their processes happen to end.
    assert 3 <= len(states(study)) <= 2 + jobs
    assert set(states(study)) == {"FAIL"}
    assert "the first 3 trials failed" in capsys.readouterr().out


def test_later_failures_do_not_stop_a_sweep_that_has_trained():
    parameters = {"model.x": {"values": [1.0, 3.0]}, "n": {"values": [1, 2, 3, 4]}}
    status, study = sweep(options=["--mode=crash-at-3"], parameters=parameters)
    assert status == 0
    assert states(study) == ["COMPLETE"] * 4 + ["FAIL"] * 4


def test_a_trial_that_never_logs_the_metric_has_failed():
    status, study = sweep(count=1, options=["--mode=forget"])
    assert status == 1
    assert states(study) == ["FAIL"]
    assert study.trials[0].user_attrs["reason"] == "best/composite was never logged; logged: val/other"


def test_the_early_stopping_of_the_shipped_sweep_acts_on_runs_with_four_evaluations():
    stop = read_sweep(sweep_path("decay")).config["early_terminate"]
    parameters = {"model.x": {"values": [2.1, 2.0, 5.0]}}
    _, study = sweep(parameters=parameters, early_terminate=stop, options=["--mode=wait-after-3"])
    assert states(study) == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert [len(trial.intermediate_values) for trial in study.trials] == [4, 4, 3]
    assert not alive(int(seen(study.trials[2])[1]))
    shared, number = compared(study)  # plots compare the stopped trial, too, when all were as far as it
    assert number == 3
    assert [trial.value for trial in shared.trials] == pytest.approx([0.749, 0.75, -0.15])
    assert [trial.params["model.x"] for trial in shared.trials] == [2.1, 2.0, 5.0]


def test_bayes_samples_within_the_bounds():
    space = {"model.x": {"min": -3.0, "max": 5.0}, "mode": {"value": "train"}}
    _, study = sweep(count=16, jobs=4, method="bayes", parameters=space)
    xs = [trial.params["model.x"] for trial in study.trials]
    assert len(xs) == 16
    assert all(-3 <= x <= 5 for x in xs)
    assert isinstance(study.trials[0].distributions["model.x"], optuna.distributions.FloatDistribution)
    again = LocalStudy.open(write_sweep(method="bayes", parameters=space), Path("outputs/sweeps/tiny"), [], 0)
    assert isinstance(again.study.sampler, optuna.samplers.TPESampler)


def test_going_on_adds_trials_up_to_the_count_and_never_repeats_random_ones():
    space = {"model.x": {"min": 0.5, "max": 8.0, "distribution": "log_uniform_values"}}
    sweep(count=2, method="random", parameters=space)
    sweep(count=2, method="random", parameters=space)
    _, study = sweep(count=5, method="random", parameters=space)
    assert len(study.trials) == 5
    assert len({trial.params["model.x"] for trial in study.trials}) == 5


@pytest.mark.parametrize(("count", "trials"), [(None, 2), (1, 1), (3, 3)])
def test_run_cap_is_the_number_of_trials_unless_a_count_is_given(count, trials):
    _, study = sweep(count=count, run_cap=2)
    assert states(study) == ["COMPLETE"] * trials


def test_other_settings_do_not_mix_with_an_old_sweep():
    sweep(count=1)
    with pytest.raises(ValueError, match=r"tiny: holds trials of other settings .*SWEEP_NAME="):
        sweep(count=2, parameters={"model.x": {"values": [7.0]}})
    with pytest.raises(ValueError, match="other settings"):
        sweep(count=2, arguments=["--seed_everything=1"])
    status, _ = sweep(count=1, arguments=["--seed_everything=1"], name="tiny-seed-1")
    assert status == 0


def test_a_metrics_file_is_read_up_to_its_last_complete_row():
    folder = Path("outputs/srkd/r")
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("step,best/composite\n1,0.5\n2,\n3,0.75\n4,0.8")
    assert logged("r", "best/composite") == ([0.5, 0.75], ["best/composite"])
    (folder / "metrics.csv").write_text("step,best/composite\n1,0.5\n2,nan\n")
    assert str(logged("r", "best/composite")[0]) == "[0.5, nan]", "a diverged run"
    (folder / "metrics.csv").write_text("step,best/compo")
    assert logged("r", "best/composite") == ([], [])
    assert logged("unknown", "best/composite") == ([], [])


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]


class Runner:
    """The command in a fork of this process: a new Python would take seconds to import what is here already."""

    def __init__(self, *words):
        argv = ["experiments", "sweep", "run", "tiny.yaml", "--local", *words]
        self.process = multiprocessing.get_context("fork").Process(target=self.run, args=(argv,))
        self.process.start()

    @staticmethod
    def run(argv):
        said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):  # of its trials too
            os.dup2(said, number)
        sys.stdout = sys.stderr = open(said, "w", buffering=1)  # noqa: PTH123, SIM115
        sys.argv = argv
        front_door.main()

    def send(self, blow):
        os.kill(self.process.pid, blow)

    def end(self):
        """Wait for the end; return the exit status and what was printed."""
        self.process.join(60)
        return self.process.exitcode, Path("said.txt").read_text()


def waiting_trial():
    """Return the process id of the trial that waits, None before there is one."""
    for path in Path("outputs/tiny").glob("*/seen.txt"):
        lines = path.read_text().splitlines()
        if len(lines) == 3 and "--model.x=3.0" in lines[2] and not (path.parent / "metrics.csv").exists():
            return int(lines[1])
    return None


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_or_killed_sweep_resumes(blow):
    write_sweep(options=["--mode=wait-at-3"])
    runner = Runner()
    trial = wait_until(waiting_trial)
    runner.send(blow)
    status, output = runner.end()
    assert status is not None, "it ends"
    if blow != signal.SIGKILL:
        assert status == 128 + blow
        assert "Traceback" not in output
        assert not alive(trial), "the runner ends its trials"
    before = load(Path("outputs/sweeps/tiny"))
    assert [t.state.name for t in before.trials][:2] == ["COMPLETE", "COMPLETE"]

    Path("go").touch()
    status, output = Runner().end()
    assert status == 0, output
    assert not alive(trial), "the orphan of a killed runner is ended on resume"
    study = load(Path("outputs/sweeps/tiny"))
    done = [trial for trial in study.trials if not was_interrupted(trial)]
    assert sorted(trial.params["model.x"] for trial in done) == [1, 2, 3, 4]
    assert {trial.state.name for trial in done} == {"COMPLETE"}
    assert len(study.trials) == 5, "the interrupted trial stays in the journal"


def test_jobs_run_at_the_same_time_and_a_second_runner_is_rejected():
    write_sweep(options=["--mode=wait"])
    runner = Runner("--jobs=2")
    wait_until(lambda: len(list(Path("outputs/tiny").glob("*/seen.txt"))) == 2)
    with pytest.raises(ValueError, match="outputs/sweeps/tiny: another process runs this sweep; wait, or"):
        sweep(options=["--mode=wait"])
    runner.send(signal.SIGINT)
    assert runner.end()[0] == 130


def test_an_invalid_sweep_file_is_one_line_and_creates_no_study():
    write_sweep()
    text = Path("tiny.yaml").read_text().replace("method: grid", "method: gird")
    Path("tiny.yaml").write_text(text)
    status, output = Runner().end()
    assert status == 2
    assert output.startswith("error: tiny.yaml: method: Input should be 'grid', 'random' or 'bayes'")
    assert not list(Path("outputs/sweeps/tiny").glob("journal*"))


def test_the_old_settings_of_a_sweep_can_be_resumed():
    """With the command that the error about other settings names."""
    sweep(count=1)
    write_sweep(parameters={"model.x": {"values": [7.0]}})
    words = ["run", "outputs/sweeps/tiny/sweep.yaml", "--name", "tiny", "--count", "2", "--local"]
    assert command_line.main(words) == 0
    assert states(load(Path("outputs/sweeps/tiny"))) == ["COMPLETE"] * 2


def test_a_renamed_sweep_is_reported_and_resumed(capsys):
    _, study = sweep(count=1)
    group = seen(study.trials[0])[0]
    Path("outputs/sweeps/tiny").rename("outputs/sweeps/renamed")
    report(Path("outputs/sweeps/renamed"))
    assert "best: trial 0" in capsys.readouterr().out
    _, after = sweep(count=2, name="renamed")
    assert [trial.params["model.x"] for trial in after.trials[:2]] == [1, 2]
    assert {seen(trial)[0] for trial in after.trials[:2]} == {group}


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a*", "/tmp", "a b"])
def test_a_sweeps_name_must_be_a_folder_name(name):
    with pytest.raises(ValueError, match=r"SWEEP_NAME=.*: not a folder name under outputs/sweeps"):
        sweep_folder(name)


def test_a_sweep_ends_once_its_target_is_reached(capsys):
    metric = {"name": "best/composite", "goal": "maximize", "target": 0.95, "impute": "worst"}
    status, study = sweep(metric=metric)
    assert status == 0
    assert states(study) == ["COMPLETE", "COMPLETE"], "x = 2 has it"
    printed = capsys.readouterr().out
    assert "metric.target 0.95 is reached: no further trials" in printed
    assert "note: metric.impute acts on W&B only" in printed
    metric = {"name": "best/composite", "goal": "minimize", "target": 0.7}
    assert states(sweep(metric=metric, name="less")[1]) == ["COMPLETE"], "below it from the start"


def test_the_value_of_a_trial_is_the_last_one_that_it_logged():
    _, study = sweep(count=1, options=["--mode=fall"], metric={"name": "best/composite", "goal": "minimize"})
    assert study.trials[0].value == pytest.approx(-0.9), "from -0.15 down to it"


def test_a_trial_that_crashes_after_its_last_evaluation_has_failed():
    assert states(sweep(count=1, options=["--mode=crash-at-end"])[1]) == ["FAIL"]
