"""`evaluate`, `export` and `report` build no class of another package unless they are told to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments import __main__ as command_line
from experiments.commands import demo, export, latency, results
from tests.canary import foreign_checkpoint
from tests.experiments.runs.test_evaluate_pair import SMALL

ROOT = Path(__file__).resolve().parents[3]
REFUSAL = r"canary\.\w+ is not a class of this project .*--trust"


@pytest.fixture
def argv(monkeypatch):
    monkeypatch.delenv("SONODISTILL_RUN", raising=False)
    for page in ("plots.write_all", "report_finished_run"):
        monkeypatch.setattr(f"experiments.runs.cli.{page}", lambda *_: None)
    return lambda *words: monkeypatch.setattr(sys, "argv", ["experiments", *map(str, words)])


@pytest.fixture
def stopped(capsys):
    """Run a command's entry point, which ends in an error, and return that."""

    def run(main):
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        return line

    return run


def evaluation(checkpoint, *words):
    return ["evaluate", "planes", checkpoint, *SMALL, "--representation.enabled=false", *words]


def test_evaluate_refuses_a_foreign_checkpoint_and_builds_it_when_told(
    canary, tmp_path, tiny_planes, argv, stopped, monkeypatch
):
    monkeypatch.setenv("PLANES_ROOT", str(tiny_planes))
    checkpoint = foreign_checkpoint(tmp_path / "best.ckpt")
    argv(*evaluation(checkpoint))
    line = stopped(command_line.main)
    assert f"{checkpoint}: canary.Encoder is not a class of this project" in line
    assert "--trust" in line
    assert not canary.exists()
    assert not list(tmp_path.glob("outputs/evaluate/*/results.json"))
    command_line.run(evaluation(checkpoint, "--trust"))
    assert canary.exists()
    (results,) = tmp_path.glob("outputs/evaluate/*/results.json")
    assert "student/planes/f1" in json.loads(results.read_text())["metrics"]


@pytest.mark.parametrize(
    "given", ["--data=canary.Data", "--model.teacher=canary.Encoder", "--trainer.callbacks+=canary.Encoder"]
)
def test_evaluate_imports_nothing_foreign_that_a_configuration_names(
    canary, tmp_path, tiny_planes, argv, stopped, monkeypatch, given
):
    monkeypatch.setenv("PLANES_ROOT", str(tiny_planes))
    argv(*evaluation(foreign_checkpoint(tmp_path / "best.ckpt"), given))
    assert "canary." in (line := stopped(command_line.main))
    assert "--trust" in line
    assert not canary.exists()


def run_folder(tmp_path, data, teacher=None):
    """Write the folder of a run, as somebody sends it."""
    checkpoint = foreign_checkpoint(tmp_path / "sent" / "checkpoints" / "best.ckpt")
    config = {"data": data, "model": {"teacher": teacher, "loss": {"class_path": "canary.Loss"}}}
    (tmp_path / "sent" / "config.yaml").write_text(yaml.safe_dump(config))
    return checkpoint


HC18 = {"class_path": "datamodules.HC18DataModule", "init_args": {"root": "HC18"}}
PIPE = {"class_path": "datamodules.PairShardsDataModule", "init_args": {"urls": "pipe:touch imported"}}


def nested(value):
    return HC18 | {"init_args": {"root": "HC18", "augmentation": value}}


@pytest.mark.parametrize("data", [HC18, nested({"class_path": "canary.Change"}), nested("change.yaml"), PIPE])
def test_export_runs_no_code_of_the_folder(canary, tmp_path, argv, stopped, data):
    (tmp_path / "change.yaml").write_text("class_path: canary.Change")
    checkpoint = run_folder(tmp_path, data)
    argv("export", checkpoint)
    assert ("allow_pipe" if data is PIPE else "--trust") in stopped(command_line.main)
    assert not Path("imported").exists()
    argv("export", "--data=canary.Data", "--data.root=x", checkpoint)
    assert "--trust" in stopped(command_line.main)
    assert not canary.exists()
    assert not (tmp_path / "sent" / "export").exists()


def test_export_builds_what_it_is_told_to_trust(canary, tmp_path, monkeypatch):
    checkpoint = run_folder(tmp_path, HC18)
    students = []

    def exported(subject, *_):
        students.append(subject.student)
        raise ValueError("far enough")

    monkeypatch.setattr(export, "export_student", exported)
    with pytest.raises(ValueError, match="far enough"):
        export.main([checkpoint, "--trust"])
    assert canary.exists()
    assert [type(student).__module__ for student in students] == ["canary"]


def test_demo_exports_what_it_is_told_to_trust(canary, tmp_path, monkeypatch):
    checkpoint = run_folder(tmp_path, HC18)

    def far_enough(*_):
        raise ValueError("far enough")

    monkeypatch.setattr(export, "export_student", far_enough)
    with pytest.raises(ValueError, match=REFUSAL):
        demo.main([checkpoint])
    assert not canary.exists()
    with pytest.raises(ValueError, match="far enough"):
        demo.main([checkpoint, "--trust"])
    assert canary.exists()


def test_latency_refuses_a_foreign_checkpoint(canary, tmp_path):
    checkpoint = foreign_checkpoint(tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=REFUSAL):
        latency.main([checkpoint])
    assert not canary.exists()


@pytest.mark.parametrize("part", ["data", "change", "file", "text", "teacher", "student", "pipe"])
def test_report_runs_no_code_of_the_folder(canary, tmp_path, capsys, student_checkpoint, part):
    data = {
        "data": {"class_path": "canary.Data", "init_args": {"root": "HC18"}},
        "change": nested({"class_path": "canary.Change"}),
        "file": nested("change.yaml"),
        "pipe": PIPE,
    }.get(part, HC18)
    (tmp_path / "change.yaml").write_text("class_path: canary.Change")
    teacher = {"teacher": {"class_path": "canary.Encoder"}, "text": "canary.Encoder"}.get(part)
    checkpoint = run_folder(tmp_path, data, teacher)
    if part != "student":  # which is built before the others are looked at
        Path(checkpoint).unlink()
        checkpoint = str(student_checkpoint)
    record = {"experiment": "srkd", "data": "hc18", "metrics": {}, "details": {"student": {}}}
    record["selection"] = {"checkpoint": checkpoint}
    (tmp_path / "sent" / "results.json").write_text(json.dumps(record))
    results.report([str(tmp_path / "sent")])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert ("allow_pipe" if part == "pipe" else "--trust") in said
    assert not Path("imported").exists()
    if part == "student":
        assert "is not a class of this project" in said
        results.report([str(tmp_path / "sent"), "--trust"])
        assert canary.exists()


def test_a_folder_of_a_packages_name_in_the_working_directory_is_not_imported(tmp_path):
    code = f"open({str(tmp_path / 'imported')!r}, 'w')"
    for package in ("experiments", "yaml", "metrics"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(code)
    command = [sys.executable, str(ROOT / "experiments"), "list"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "srkd" in done.stdout, done.stderr
    assert not (tmp_path / "imported").exists()
