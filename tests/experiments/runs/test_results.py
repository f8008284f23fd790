"""results.json is JSON, also where a number has no value, and is printed with dashes there."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from experiments.report.read_run import read_run
from experiments.runs import results
from metrics.names import STUDENT, TEACHER, final_name, geometry_name

NAN = float("nan")
METRICS = {
    final_name(STUDENT, "hc18", "validity"): NAN,
    final_name("constant", "hc18", "age_days"): 141.0,
    final_name("constant", "hc18", "validity"): 59.09,
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
    return results.collect(trainer, module, checkpoint, "srkd", "hc18", 1, "best.ckpt", 2.0)


def test_the_command_is_kept(monkeypatch, request):
    monkeypatch.setattr("sys.argv", ["experiments", "train", "srkd", "hc18", "--x=a b"])
    assert request.getfixturevalue("record")["command"] == ["train", "srkd", "hc18", "--x=a b"]


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_what_is_not_a_number_is_null(record, tmp_path):
    path = results.write(record, tmp_path)
    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content == record
    assert content["metrics"][geometry_name("cka")] is None
    assert content["selection"]["score"] is None
    assert content["details"][STUDENT]["hc18"]["per_age"] == [{"validity": None}, [1.0, None]]
    assert content["metrics"][geometry_name("class_distance_ratio", STUDENT)] == 1.25


def test_a_table_shows_dashes(record, tmp_path, capsys):
    results.print_table(record, tmp_path)
    printed = capsys.readouterr().out
    assert "nan" not in printed.casefold().replace(str(tmp_path).casefold(), "")
    assert "linear CKA -" in printed
    assert "student - [-, 0.500]" in printed
    (row,) = (line for line in printed.splitlines() if "within planes" in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["-", "1.250"]


def test_a_table_with_validity_has_the_constant_baseline(record, tmp_path, capsys):
    results.print_table(record, tmp_path)
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "constant age" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["constant age 20w1d", "59.1  [55.8, 62.5]"]


def test_a_report_reads_what_is_undefined_as_none(record, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(record))
    assert read_run(tmp_path).metric(STUDENT, "hc18", "validity") is None
    assert read_run(tmp_path).headline(STUDENT) == {}
