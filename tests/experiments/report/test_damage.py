"""Damaged, empty and renamed files in a run's folder: one line that names the file, never a traceback."""

import json
import sys
from itertools import product
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import yaml

from experiments import __main__ as command_line
from experiments.report import report_finished_run, write, write_report
from experiments.report.evidence import read_evidence
from experiments.report.read_run import read_run
from experiments.runs import cli
from experiments.runs.cli import SonoDistillCLI

pytestmark = pytest.mark.usefixtures("without_drawings")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "a: [1\nb: {"),
        ("results.json", "\x80"),
        ("latency/latency.json", "3"),
        *product(("metrics.csv",), ("\n", "a,b\n1,2,3\n1,2,3,4\n")),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(make_run, name, content, monkeypatch, capsys):
    run = make_run()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_bytes(content.encode("latin-1"))
    (run / "report.html").unlink(missing_ok=True)
    monkeypatch.setattr(sys, "argv", ["experiments", "report", str(run)])
    with pytest.raises(SystemExit) as end:
        command_line.main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run / name}: damaged (")
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"projections": {}, "more": 1}'])
def test_damaged_evidence_is_computed_again(make_run, content, monkeypatch, capsys):
    run = make_run()
    whole = read_evidence(run)
    (run / "evidence.json").write_text(content)
    monkeypatch.setattr(write, "evidence_from_folder", lambda _: whole)
    write_report([run])
    assert f"note: {run / 'evidence.json'}: damaged (" in capsys.readouterr().err
    assert read_evidence(run) == whole


def test_damaged_evidence_of_another_run_leaves_a_finished_training_its_report(make_run, monkeypatch, capsys):
    run, rival = make_run(skill=5.0), make_run("static-kd", skill=0.6, weights=(1, 1), seed=5)
    (rival / "evidence.json").write_text('{"projections": ')
    monkeypatch.setattr(write, "collect", lambda *_: read_evidence(run))
    page = report_finished_run(run, SimpleNamespace(student=None, teacher=None), None)
    assert "Ahead with this seed; other seeds unknown" in page.read_text()
    assert "evidence.json is absent or damaged; make report RUN=" in page.read_text()
    assert str(rival / "evidence.json") in capsys.readouterr().err


@pytest.mark.parametrize(
    "schedule",
    [
        {"class_path": "callbacks.OffDiagonalSchedule", "init_args": {"start": "a", "end_ratio": 1.0}},
        "callbacks.OffDiagonalSchedule",
    ],
)
def test_a_schedule_that_is_not_ours_leaves_this_and_other_runs_their_report(make_run, schedule):
    run, rival = make_run(skill=5.0), make_run("static-kd", skill=0.6, weights=(1, 1), seed=5)
    for folder in (rival, run):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(config | {"schedule": schedule}))
    assert "Ahead with this seed; other seeds unknown" in write_report([run]).read_text()


@pytest.mark.parametrize("part", ["model", "data"])
def test_a_configuration_without_a_part_is_reported(make_run, part, capsys):
    run = make_run(with_evidence=False)
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config[part]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    write_report([run])
    assert f"config.yaml: lacks ['{part}'], so models and data cannot be built" in capsys.readouterr().err


def test_absent_latency_and_results_entries_are_left_out(make_run):
    run = make_run()
    (run / "latency").mkdir()
    (run / "latency/latency.json").write_text(
        json.dumps({"backends": {"torch": {"p95_ms": 2.0}, "onnx": {}}})
    )
    record = json.loads((run / "results.json").read_text())
    record.pop("finished", None)
    (run / "results.json").write_text(json.dumps(record))
    text = write_report([run]).read_text()
    assert "date unknown" in text
    assert "2.00" in text
    assert read_run(run).latency is not None


def test_a_folder_is_no_file_to_write(make_run, tmp_path, monkeypatch, capsys):
    run, out = make_run(), tmp_path / "reports"
    out.mkdir()
    monkeypatch.setattr(sys, "argv", ["experiments", "report", str(run), "--out", str(out)])
    with pytest.raises(SystemExit):
        command_line.main()
    assert (
        capsys.readouterr().err
        == f"error: OUT={out}: a folder; name the file, such as OUT={out}/report.html\n"
    )
    assert list(out.iterdir()) == []
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize("failure", [ValueError("bad file"), KeyError("a bug")])
def test_a_failing_report_keeps_no_results_from_wandb(failure, monkeypatch, tmp_path, capsys):
    def fail(*_):
        raise failure

    sent = []
    for name in ("write_json", "print_table", "join_metrics", "plots.write_all"):
        monkeypatch.setattr(f"experiments.runs.cli.{name}", lambda *_: None)
    monkeypatch.setattr(cli.results, "collect", lambda *_, **__: {"metrics": {}})
    monkeypatch.setattr(cli, "report_finished_run", fail)
    monkeypatch.setattr(cli.wandb_access, "publish", lambda *given: sent.append(given))
    run = object.__new__(SonoDistillCLI)
    run.trainer, run.model, run.datamodule = MagicMock(is_global_zero=True), MagicMock(), None
    run.recipe, run.started, run.selection = SimpleNamespace(preset="phantom"), 0.0, None
    run.subcommand, run.folder, run.record, run.cautions = "fit", tmp_path, {}, []
    run.command, run.answers = ("fit", "srkd"), SimpleNamespace(create=False, calibration=None)
    run.config = {"fit": SimpleNamespace(experiment="srkd", seed_everything=0)}
    if isinstance(failure, ValueError):
        run.finish("best.ckpt")
        said = capsys.readouterr().err
        assert (
            said == f"warning: no report (bad file); the results are complete: make report RUN={tmp_path}\n"
        )
    else:
        with pytest.raises(KeyError):
            run.finish("best.ckpt")
    assert len(sent) == 1
