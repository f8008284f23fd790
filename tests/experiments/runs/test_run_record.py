"""Which teacher an evaluation has, and what it says of models trained on other data; it trains no teacher."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace

from experiments import __main__ as command_line
from experiments.config import CAUTION
from experiments.runs.run_record import cautions, make_record, read_record, teacher_arguments
from experiments.runs.teachers import SHIPPED
from models.checkpoints import licences
from models.checkpoints.licences import NOTHING_INHERITED, UNKNOWN_LICENCE, PublishedFile
from models.files import sha256
from models.loading import student_entry
from tests.experiments.runs.documented import violations
from tests.experiments.runs.test_evaluate_pair import SMALL, TOWER


def save(path, teacher=None, **record):
    """Write a checkpoint whose run had this teacher."""
    torch.save({"state_dict": {}, "run": {"teacher": teacher, **record}}, path)
    return str(path)


@pytest.fixture
def pair(tmp_path):
    """Return a student's checkpoint and its teacher's."""
    teacher = save(tmp_path / "teacher.ckpt")
    own = {"class_path": "models.from_checkpoint", "path": teacher, "sha256": sha256(Path(teacher))}
    return save(tmp_path / "student.ckpt", own), teacher


def test_the_teacher_is_that_of_the_students_own_run(pair, capsys):
    student, teacher = pair
    (option,) = teacher_arguments(student, [])
    name, _, value = option.partition("=")
    assert name == "--model.teacher"
    assert json.loads(value) == {"class_path": "models.from_checkpoint", "init_args": {"path": teacher}}
    for given in (["--teacher=x.pt"], ["--model.teacher=null"]):
        assert teacher_arguments(student, given) == []
    assert teacher_arguments("teacher", []) == []
    assert capsys.readouterr().out == ""


def test_without_its_own_teacher_one_line_says_why(pair, tmp_path, capsys):
    student, teacher = pair
    folder = tmp_path / "clip"
    folder.mkdir()
    foreign = tmp_path / "foreign.pt"
    torch.save({"state_dict": {}}, foreign)
    another = save(tmp_path / "b.ckpt", {"class_path": "somebody.Model", "path": teacher, "sha256": "0"})

    def said(checkpoint):
        assert teacher_arguments(str(checkpoint), []) == ["--model.teacher=null"]
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("no teacher is scored: ")
        assert line.endswith("; TEACHER=path/to/checkpoint compares with one")
        return line

    assert "records none" in said(foreign)
    assert "records none" in said(folder)
    assert "run had none" in said(save(tmp_path / "alone.ckpt"))
    assert "built by somebody.Model" in said(another)
    save(teacher, quick=True)
    assert f"{teacher} has changed since the checkpoint's run" in said(student)
    Path(teacher).unlink()
    assert f"{teacher}, that of the checkpoint's run, is not there" in said(student)


def settings(root, teacher=None, quick=None, student=None, **split):
    data = Namespace(class_path="datamodules.HC18DataModule", init_args=Namespace(root=str(root), **split))
    towers = {
        role: path and Namespace(class_path="models.from_checkpoint", init_args=Namespace(path=str(path)))
        for role, path in {"student": student, "teacher": teacher}.items()
    }
    tested = {name: Namespace(test_split="test") for name in ("planes", "biometry")}
    return Namespace(data=data, model=Namespace(**towers), quick=quick, paper_selection=False, **tested)


def test_a_selection_on_the_reported_images_is_told(tiny_hc18):
    config = settings(tiny_hc18)
    config.paper_selection = True
    said = "selected on the images that are reported, training images included"
    assert cautions(config, trains=True) == [said]
    assert cautions(config, trains=False) == [], "an evaluation selects nothing"
    config.paper_selection, config.biometry.test_split = False, "all"
    assert cautions(config, trains=True) == ["scored on all images, training images included"]


def test_scores_on_patients_that_a_teacher_may_have_seen_are_told(tiny_hc18, tmp_path):
    own = make_record(settings(tiny_hc18, split_seed=0))
    teacher = save(tmp_path / "teacher.ckpt", data=own["data"])
    shutil.copytree(tiny_hc18, tmp_path / "moved")
    for root in (tiny_hc18, tmp_path / "moved"):
        assert cautions(settings(root, teacher, split_seed=0), trains=True) == []
    (said,) = cautions(settings(tiny_hc18, teacher, split_seed=1), trains=True)
    assert said.startswith(
        f"teacher {teacher} was trained on another split of these data: test patients here may"
    )
    table = tmp_path / "moved" / "training_set_pixel_size_and_HC.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-3]))
    (said,) = cautions(settings(tmp_path / "moved", teacher, split_seed=0), trains=True)
    assert said.startswith(
        f"teacher {teacher} was trained on other data (datamodules.HC18DataModule with HC18_ROOT "
    )
    quick = save(tmp_path / "quick.ckpt", data=own["data"], quick=True)
    assert cautions(settings(tiny_hc18, quick, split_seed=0), trains=True) == [
        f"teacher {quick} comes from {CAUTION}"
    ]
    assert cautions(settings(tiny_hc18, quick, True, split_seed=0), trains=True) == [CAUTION]


def test_scores_on_patients_that_a_students_first_weights_may_have_seen_are_told(tiny_hc18, tmp_path):
    first = save(tmp_path / "first.ckpt", data=make_record(settings(tiny_hc18, split_seed=0))["data"])
    (said,) = cautions(settings(tiny_hc18, student=first, split_seed=1), trains=True)
    assert said.startswith(f"student {first} was trained on another split of these data")
    assert cautions(settings(tiny_hc18, student=first, split_seed=0), trains=True) == []
    # And of the runs after it, whose own split is the one that is scored.
    path = first
    for number in (2, 3):
        path = save(
            tmp_path / f"{number}.ckpt", **make_record(settings(tiny_hc18, student=path, split_seed=1))
        )
    (said,) = cautions(settings(tiny_hc18, student=path, split_seed=1), trains=False)
    assert said.startswith(f"student {path} was trained on another split of these data")


def test_a_student_may_start_from_simulated_images(tiny_hc18, tmp_path):
    phantom = make_record(settings(tiny_hc18))["data"] | {"class_path": "datamodules.PhantomDataModule"}
    start = save(tmp_path / "start.ckpt", data=phantom)
    assert cautions(settings(tiny_hc18, student=start), trains=True) == []
    (said,) = cautions(settings(tiny_hc18, student=start), trains=False)
    assert said.endswith("knows little of these data")
    own = save(tmp_path / "own.ckpt", **make_record(settings(tiny_hc18, student=start)))
    assert cautions(settings(tiny_hc18, own), trains=True) == []


def test_a_teacher_of_simulated_images_is_no_leak_but_knows_little(tiny_hc18, tmp_path):
    phantom = make_record(settings(tiny_hc18))["data"] | {"class_path": "datamodules.PhantomDataModule"}
    teacher = save(tmp_path / "teacher.ckpt", data=phantom)
    assert cautions(settings(tiny_hc18, teacher), trains=True) == [
        f"teacher {teacher} was trained on simulated images only and knows little of these data"
    ]


def licence(path, class_path="models.from_checkpoint", **arguments):
    """Return the licence that a run records for a teacher of this file."""
    arguments |= {"path": str(path)} if path else {}
    tower = Namespace(class_path=class_path, init_args=Namespace(**arguments))
    model = Namespace(student=None, teacher=tower)
    data = Namespace(class_path="datamodules.HC18DataModule", init_args=Namespace(root=None))
    return make_record(Namespace(data=data, model=model, quick=None))["teacher"]["licence"]


def test_a_licence_is_known_by_the_files_digest_or_its_own_record_and_never_by_its_path(
    tmp_path, monkeypatch
):
    folder = tmp_path / "outputs" / "teachers"
    folder.mkdir(parents=True)
    weights = folder / "hc18.safetensors"
    weights.write_bytes(b"somebody's weights")
    assert licence(weights) == UNKNOWN_LICENCE
    file = PublishedFile(18, sha256(weights), "FetalCLIP", "example.org", "CC BY-NC 4.0")
    monkeypatch.setattr(licences, "PUBLISHED_FILES", (file,))
    weights = weights.rename(tmp_path / "renamed.pt")
    assert licence(weights) == "CC BY-NC 4.0"
    sources = {name: {"licence": text} for name, text in (("start", NOTHING_INHERITED), ("teacher", "A 1.0"))}
    assert licence(save(tmp_path / "own.ckpt", **sources)) == "A 1.0"
    both = save(tmp_path / "both.ckpt", teacher={"licence": "Apache-2.0"}, start={"licence": "CC BY-NC 4.0"})
    assert licence(both) == "Apache-2.0; CC BY-NC 4.0"
    assert licence(save(tmp_path / "alone.ckpt", start=sources["start"])) == NOTHING_INHERITED
    assert licence(save(tmp_path / "earlier.ckpt")) == UNKNOWN_LICENCE
    assert licence(None, "models.OpenCLIPEncoder", name="FetalCLIP") == NOTHING_INHERITED
    assert licence(None, "somebody.Model") == UNKNOWN_LICENCE
    other = tmp_path / "converted.pt"
    other.write_bytes(b"x")
    said = licence(None, "models.OpenCLIPEncoder", name="FetalCLIP", weights=str(other))
    assert said.startswith(f"{UNKNOWN_LICENCE} (published FetalCLIP weights: CC BY-NC")


def test_the_shipped_teacher_is_known_by_its_digest():
    assert licence(SHIPPED / "phantom.safetensors") == "Apache-2.0"


@pytest.fixture
def workplace(tmp_path, tiny_hc18, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HC18_ROOT", str(tiny_hc18))
    monkeypatch.setattr(sys, "argv", ["experiments"])
    monkeypatch.setattr("experiments.runs.cli.plots.write_all", lambda *_: None)
    return tmp_path


def run(*arguments):
    command_line.run(list(arguments))


def test_a_held_out_set_is_scored_with_the_runs_own_teacher(
    workplace, tiny_hc18, tiny_student, monkeypatch, capsys
):
    student = json.dumps({"class_path": "models.TimmEncoder", "init_args": TOWER})
    small = [*SMALL, f"--model.student={student}", "--trainer.max_epochs=1"]
    train = ["train", "no-kd", "hc18", *small, "--score_test_patients=false"]
    teacher = workplace / "teacher.ckpt"
    state = {f"student.{name}": value for name, value in tiny_student.state_dict().items()}
    made = {"data": make_record(settings(tiny_hc18))["data"], "teacher": None}
    made["start"] = {"licence": NOTHING_INHERITED}
    torch.save({"state_dict": state, "student": student_entry(tiny_student), "run": made}, teacher)
    run(*train, "--run=first", f"--teacher={teacher}")
    checkpoint = workplace / "outputs" / "no-kd" / "first" / "checkpoints" / "best.ckpt"
    stored = read_record(str(checkpoint))
    assert stored["teacher"] == {
        "class_path": "models.from_checkpoint", "path": str(teacher), "sha256": sha256(teacher),
        "licence": NOTHING_INHERITED,
    }  # fmt: skip
    assert (stored["start"]["path"], stored["start"]["licence"]) == (None, NOTHING_INHERITED)
    before = {path: path.stat().st_mtime_ns for path in (workplace / "outputs").rglob("*.ckpt")}
    held_out = workplace / "held-out"
    shutil.copytree(tiny_hc18, held_out)
    table = held_out / "training_set_pixel_size_and_HC.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-3]))
    monkeypatch.setenv("HC18_ROOT", str(held_out))
    capsys.readouterr()
    run("evaluate", "hc18", str(checkpoint), *SMALL)
    printed = capsys.readouterr().out
    (results,) = (workplace / "outputs" / "evaluate").glob("*/results.json")
    record = json.loads(results.read_text())
    assert violations(record) == []
    assert record["run"]["teacher"]["sha256"] == sha256(teacher)
    assert "teacher/hc18/validity" in record["metrics"]
    for role, path in (("student", checkpoint), ("teacher", teacher)):
        caution = next(
            text for text in record["cautions"] if text.startswith(f"{role} {path} was trained on other data")
        )
        assert printed.count(caution) == 2, "at the start, and below the results"
        assert caution in (results.parent / "report.html").read_text()
    assert {path: path.stat().st_mtime_ns for path in (workplace / "outputs").rglob("*.ckpt")} == before
