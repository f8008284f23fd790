"""results.json is JSON, also where a number has no value, and is printed with dashes there."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from experiments.report.read_run import read_run
from experiments.report.terminal import print_table
from experiments.runs import results
from metrics.benchmarks import BENCHMARKS
from metrics.names import STUDENT, TEACHER, constant_title, final_name, geometry_name
from models.files import write_json

NAN = float("nan")
METRICS = {
    final_name(STUDENT, "hc18", "validity"): NAN,
    final_name("constant", "hc18", "age_days"): 141.0,
    final_name("constant", "hc18", "validity"): 59.09,
    final_name("constant", "hc18", "mae_weeks"): 3.24,
    final_name("constant", "hc18", "spearman"): 0.0,
    final_name("pixel_size", "hc18", "validity"): 64.13,
    final_name("constant", "hc18", "validity_ci_low"): 55.77,
    final_name("constant", "hc18", "validity_ci_high"): 62.53,
    final_name(STUDENT, "hc18", "n_scored"): 3.0,
    final_name(STUDENT, "eight_class", "f1"): NAN,
    final_name(STUDENT, "eight_class", "f1_ci_low"): NAN,
    final_name(STUDENT, "eight_class", "f1_ci_high"): 0.5,
    geometry_name("cka"): NAN,
    geometry_name("class_distance_ratio", TEACHER): NAN,
    geometry_name("class_distance_ratio", STUDENT): 1.25,
}


@pytest.fixture
def record():
    """Of an evaluation whose embeddings have collapsed to a point."""
    found = {"hc18": {"split": "test", "per_age": [{"validity": NAN}, (1.0, float("inf"))]}}
    evaluation = SimpleNamespace(results={STUDENT: found}, final_metrics=METRICS)
    checkpoint = SimpleNamespace(best_model_score=torch.tensor(NAN), monitor="val/composite")
    trainer = SimpleNamespace(callbacks=[evaluation], global_step=5)
    module = SimpleNamespace(student=nn.Linear(2, 3), teacher=None, device="cpu")
    found["hc18"]["validity"] = NAN
    found = results.collect(trainer, module, checkpoint, "best.ckpt", trained=True)
    return {"experiment": "srkd", "data": "hc18", **found}


def test_the_command_is_kept(monkeypatch, request):
    monkeypatch.setattr("sys.argv", ["experiments", "train", "srkd", "hc18", "--x=a b"])
    assert request.getfixturevalue("record")["command"] == ["train", "srkd", "hc18", "--x=a b"]


@pytest.mark.parametrize(
    ("best", "trained", "monitor"), [(0.5, True, "s"), (None, True, None), (None, False, "s")]
)
def test_a_training_that_selected_by_nothing_names_no_metric(best, trained, monitor):
    score = None if best is None else torch.tensor(best)
    selection = SimpleNamespace(best_model_score=score, monitor="s")
    trainer = SimpleNamespace(callbacks=[], global_step=5)
    module = SimpleNamespace(student=nn.Linear(2, 3), teacher=None, device="cpu")
    found = results.collect(trainer, module, selection, "best.ckpt", trained)["selection"]
    assert (found["monitor"], found["score"]) == (monitor, best)


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_what_is_not_a_number_is_null(record, tmp_path):
    write_json(tmp_path / "results.json", record)
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert content == record
    assert content["metrics"][geometry_name("cka")] is None
    assert content["selection"]["score"] is None
    assert content["details"][STUDENT]["hc18"]["per_age"] == [{"validity": None}, [1.0, None]]
    assert content["metrics"][geometry_name("class_distance_ratio", STUDENT)] == 1.25


def test_a_table_shows_dashes(record, tmp_path, capsys):
    print_table(record, tmp_path)
    printed = capsys.readouterr().out
    assert "nan" not in printed.casefold().replace(str(tmp_path).casefold(), "")
    assert "linear CKA -" in printed
    assert "student - [-, 0.500]" in printed
    (row,) = (line for line in printed.splitlines() if "within planes" in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["-", "1.250"]


def test_a_table_with_validity_has_its_baselines(record, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # no cell is wrapped
    print_table(record, tmp_path)
    printed = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines()]
    scores, ages = [[row for row in lines if len(row) == width] for width in (2, 5)]
    assert scores == [["student", "-"], ["pixel size alone", "64.1"], ["constant age 20w1d", "59.1"]]
    assert ages == [
        ["pixel size alone", "64.1", *"\N{EN DASH}" * 3],
        ["constant age 20w1d", "59.1", "55.8 to 62.5", "3.2", "0.00"],
    ]


def test_a_teacher_that_was_evaluated_alone_is_called_teacher(record, tmp_path, capsys):
    del record["metrics"][geometry_name("cka")]  # of two models
    print_table(record | {"experiment": "evaluate", "scored": "teacher"}, tmp_path / "x")
    printed = capsys.readouterr().out
    assert "teacher" in printed
    assert "student" not in printed.replace(str(tmp_path), "")


def test_a_biometry_of_the_users_own_is_printed_as_hc18_is(record, tmp_path, capsys, monkeypatch):
    own = replace(BENCHMARKS["hc18"], name="clinic", title="clinic validity, %", own=True)
    monkeypatch.setitem(BENCHMARKS, "clinic", own)
    record["metrics"] = {
        name.replace("hc18", "clinic"): value for name, value in record["metrics"].items()
    } | {final_name(STUDENT, "clinic", "validity"): 81.25}
    record["details"][STUDENT] = {"clinic": {"split": "all"}}
    print_table(record, tmp_path)
    printed = " ".join(capsys.readouterr().out.split())
    assert "srkd on hc18: all images, training images included" in printed
    assert "clinic validity, %, beside answers without an image" in printed
    assert "│ student │ 81.2 │" in printed
    assert "│ constant age 20w1d │ 59.1 │ 55.8 to 62.5 │" in printed


def test_constant_answers_of_the_users_own_benchmarks_have_a_title():
    own = {"constant/clinic/f1": 0.2, "constant/heads/age_days": 141.0}
    assert constant_title(own) == "constant age 20w1d, majority class"
    assert constant_title(own | {"constant/hc18/age_days": 150.0}) == "constant age, majority class"
    assert constant_title({"constant/clinic/f1": None, "student/clinic/f1": 0.2}) == ""


def test_joint_scores_of_models_have_intervals_over_images_and_patients_and_constants_none():
    rows = [{"target": "a", "prediction": "ab"[n % 2], "patient": f"p{n // 4}"} for n in range(12)]
    models = {name: {"f1": 0.4, "samples": rows} for name in ("planes", "subplanes")}
    found = results.joint_metrics(STUDENT, models)
    assert found["student/eight_class/f1"] == pytest.approx(0.4)
    assert found["student/eight_class/f1_patient_ci_low"] == found["student/eight_class/f1_patient_ci_high"]
    assert found["student/eight_class/f1_ci_low"] < found["student/eight_class/f1_ci_high"]
    constant = {"planes": {"f1": 0.1}, "subplanes": {"f1": 0.2}, "hc18": {"lacking": "no training heads"}}
    found = results.joint_metrics("constant", constant)
    expected = pytest.approx((5 * 0.1 + 3 * 0.2) / 8)
    assert found == {"constant/composite": expected, "constant/eight_class/f1": expected}


def test_the_joint_score_of_eight_classes_leaves_out_biometry():
    scores = {"planes": {"f1": 0.1}, "subplanes": {"f1": 0.2}, "hc18": {"validity": 90.0}}
    eight = (5 * 0.1 + 3 * 0.2) / 8
    assert results.joint_metrics(STUDENT, scores) == {
        "student/eight_class/f1": pytest.approx(eight),
        "student/composite": pytest.approx((eight + 0.9) / 2),
    }


def test_the_joint_score_averages_the_classes_that_occur_as_its_interval_does():
    scores = {"planes": {"f1": 1.0, "per_class": dict.fromkeys("abcde")}, "subplanes": {"f1": 0.1}}
    scores["subplanes"]["per_class"] = {"x": None}
    found = results.joint_metrics(STUDENT, scores)
    assert found["student/eight_class/f1"] == pytest.approx((5 * 1.0 + 0.1) / 6)
    assert found["student/composite"] == pytest.approx((5 * 1.0 + 3 * 0.1) / 8)


def test_a_report_reads_what_is_undefined_as_none(record, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(record))
    assert read_run(tmp_path).metric(STUDENT, "hc18", "validity") is None
    assert read_run(tmp_path).headline(STUDENT) == {}


def test_a_run_without_benchmarks_prints_one_line_instead_of_an_empty_table(capsys, tmp_path):
    record = {"experiment": "srkd", "data": "table-small", "metrics": {}, "details": {}}
    print_table(record, tmp_path)
    assert capsys.readouterr().out.splitlines()[0] == (
        "nothing scored: table-small has no benchmark (docs/own-data.md adds one)"
    )


def test_installed_inside_another_projects_checkout_there_is_no_commit(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert results.git_commit() is None or len(results.git_commit().removesuffix("-dirty")) == 40
    (tmp_path / ".gitignore").write_text(".venv\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "results.py").touch()
    git("init")
    git("add", ".gitignore")
    git("commit", "-m", "another project")
    monkeypatch.setattr(results, "__file__", str(tmp_path / ".venv" / "results.py"))
    assert results.git_commit() is None
