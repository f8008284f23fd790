"""The report of a local sweep: table, plots and the best command."""

import shlex
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from experiments.commands import sweep as command_line
from experiments.runs.run_folder import RUN_VARIABLE
from experiments.sweep import sweep_report
from experiments.sweep.sweep_file import as_typed
from experiments.sweep.sweep_report import report
from tests.experiments.sweep.tiny_sweep import seen, sweep

pytestmark = pytest.mark.usefixtures("own_folder")


def best_command(printed):
    lines = printed.splitlines()
    return lines[next(place for place, line in enumerate(lines, start=1) if line.startswith("best: "))]


def test_the_report_has_table_plots_and_best_command(capsys):
    space = {"model.x": {"min": 0.0, "max": 5.0}, "model.name": {"values": ["a", "b"]}}
    _, study = sweep(count=8, jobs=4, method="random", parameters=space)
    capsys.readouterr()
    folder = Path("outputs/sweeps/tiny")
    report(folder)
    printed = capsys.readouterr().out
    assert best_command(printed) == as_typed(shlex.split(study.best_trial.user_attrs["command"]))
    header, *rows = (folder / "trials.csv").read_text().splitlines()
    assert header.startswith("trial,state,best/composite,model.x,model.name")
    scores = [float(row.split(",")[2]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 8
    for name in ("parallel", "best-so-far", "importance"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error:Choices for a categorical distribution")
def test_values_may_be_lists(capsys):
    space = {"model.x": {"values": [1.0, 2.0, 3.0]}, "model.betas": {"values": [[0.9, 0.98], [0.9, 0.999]]}}
    _, study = sweep(jobs=4, parameters=space)
    betas = {seen(trial)[2].partition("--model.betas=")[2] for trial in study.trials}
    assert betas == {"[0.9, 0.98]", "[0.9, 0.999]"}
    capsys.readouterr()
    report(Path("outputs/sweeps/tiny"))
    assert "--model.x=2.0 '--model.betas=[0.9, 0.9" in best_command(capsys.readouterr().out)
    assert Path("outputs/sweeps/tiny/importance.png").is_file()


def test_the_report_prints_the_best_command_before_it_plots(capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("no plot")

    sweep(count=1)
    monkeypatch.setattr(sweep_report, "write_plots", fail)
    with pytest.raises(RuntimeError, match="no plot"):
        report(Path("outputs/sweeps/tiny"))
    assert best_command(capsys.readouterr().out).endswith("--model.x=1.0")


def test_the_axes_of_the_plot_of_all_trials_are_told_apart(monkeypatch):
    named, savefig = [], plt.savefig

    def seen_savefig(*arguments, **options):
        named.append([label.get_text() for label in plt.gcf().axes[0].get_xticklabels()])
        savefig(*arguments, **options)

    monkeypatch.setattr(plt, "savefig", seen_savefig)
    space = {f"schedule.init_args.{name}": {"values": [1.0, 2.0]} for name in ("start", "end_ratio")}
    sweep(count=2, parameters=space)
    report(Path("outputs/sweeps/tiny"))
    assert named[0] == ["best/composite", "end_ratio", "start"]


def test_the_best_command_runs_as_pasted_into_a_shell_without_any_python(capsys):
    _, study = sweep(count=2)
    assert study.best_trial.user_attrs["command"].startswith("python "), "as W&B's agents start it"
    capsys.readouterr()
    report(Path("outputs/sweeps/tiny"))
    pasted = best_command(capsys.readouterr().out)
    environment = {"PATH": "/nowhere", RUN_VARIABLE: "pasted", "WANDB_RUN_GROUP": "none"}
    subprocess.run(["/bin/sh", "-c", pasted], env=environment, check=True)
    assert Path("outputs/tiny/pasted/seen.txt").read_text().endswith("--model.x=2.0\n")
    rows = Path("outputs/sweeps/tiny/trials.csv").read_text().splitlines()
    assert rows[1].endswith(pasted), "also in the table"


def test_the_report_of_a_quick_sweep_warns(capsys):
    sweep(count=1, arguments=["--quick=true"])
    report(Path("outputs/sweeps/tiny"))
    assert "warning: a quick run" in capsys.readouterr().out


def test_the_report_accepts_the_sweep_file(capsys):
    sweep(count=1)
    capsys.readouterr()
    assert command_line.main(["report", "my/tiny.yaml"]) == 0
    assert "best: trial 0" in capsys.readouterr().out


def test_the_report_of_a_missing_sweep_names_the_command():
    with pytest.raises(FileNotFoundError, match="run make sweep SWEEP=decay first"):
        report(Path("outputs/sweeps/decay"))
    with pytest.raises(FileNotFoundError, match=r"run make sweep SWEEP=\.\.\. SWEEP_NAME=none first"):
        report(Path("outputs/sweeps/none"))
    Path("outputs/sweeps/none").mkdir(parents=True)
    Path("outputs/sweeps/none/journal.log").touch()
    with pytest.raises(FileNotFoundError, match=r"run make sweep .*SWEEP_NAME=none"):
        report(Path("outputs/sweeps/none"))


def test_the_report_names_why_there_is_no_importance_plot(capsys):
    sweep(count=2)
    report(Path("outputs/sweeps/tiny"))
    assert "importance: needs 5 trials" in capsys.readouterr().out
