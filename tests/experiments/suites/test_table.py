"""Means, deviations, notes and every format of a suite's table, against numbers computed by hand."""

import csv
import io
import json
from dataclasses import asdict

import pytest
from PIL import Image

from experiments.commands.results import table as main
from experiments.suites.documents import DOCUMENTS
from experiments.suites.result_rows import read_rows, refresh
from experiments.suites.table import (
    cells,
    line_titles,
    notes,
    summarise,
    to_csv,
    to_latex,
    to_markdown,
)
from metrics.benchmarks import BENCHMARKS, Benchmark
from tests.experiments.suites.conftest import put


def test_lines_are_in_the_papers_order_with_mean_and_deviation(outputs, tmp_path):
    rows = refresh("phantom", outputs, tmp_path / "rows")
    summary = summarise(rows)
    assert [*summary.index.unique("line")] == ["teacher", "no-kd", "srkd", "random", "pixel_size", "constant"]
    validity = summary.loc[("srkd", "hc18")]
    assert (validity["mean"], validity["runs"]) == (62, 2)
    assert validity["deviation"] == pytest.approx(8**0.5)
    eight = [(5 * 0.90 + 3 * 0.70) / 8, (5 * 0.94 + 3 * 0.79) / 8]
    assert summary.loc[("srkd", "eight_class"), "mean"] == pytest.approx(sum(eight) / 2)
    for line in ("no-kd", "teacher"):  # one run, and runs that share one teacher
        assert summary.loc[(line, "hc18"), "deviation"] != summary.loc[(line, "hc18"), "deviation"]
    assert line_titles(rows)["constant"] == "Constant age 20w1d, majority class"
    assert summary.loc["pixel_size", "mean"].to_dict() == {"hc18": pytest.approx(64.1)}
    f1 = {"planes": 0.1, "subplanes": 0.2, "eight_class": (5 * 0.1 + 3 * 0.2) / 8}
    assert summary.loc["constant", "mean"].to_dict() == pytest.approx({"hc18": 59.1} | f1)


def test_every_format_shows_ours_beside_the_papers(outputs, tmp_path):
    rows = refresh("phantom", outputs, tmp_path / "rows")
    markdown = to_markdown(cells(rows))
    row = next(line for line in markdown.splitlines() if "SRKD" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == [
        "2", "62.0 ± 2.8", "0.920 ± 0.028", "0.745 ± 0.064", "0.854 ± 0.042", "88.6", "0.886",
    ]  # fmt: skip
    assert {len(line.split("|")) for line in markdown.splitlines()} == {10}
    assert "| Pixel size alone | 3 | 64.1 | - | - | - | - | - |" in markdown
    assert "| Constant age 20w1d, majority class | 3 | 59.1 | 0.100 | 0.200 | 0.138 | - | - |" in markdown
    latex = to_latex(cells(rows))
    assert r"62.0 $\pm$ 2.8" in latex
    assert r"HC18 validity, \%" in latex
    assert latex.count(r"\\") == 8
    assert r"\toprule" in latex
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [*read[0]] == ["experiment", "metric", "mean", "deviation", "runs", "paper"]
    (validity,) = [r for r in read if (r["experiment"], r["metric"]) == ("srkd", "hc18")]
    assert (float(validity["mean"]), validity["runs"], validity["paper"]) == (62.0, "2", "88.6")


def test_a_note_says_which_checkpoints_were_scored(outputs, tmp_path):
    rows = refresh("phantom", outputs, tmp_path / "rows")
    assert "checkpoints selected by val/composite, scored on" in notes(rows)[0]
    assert "checkpoints of the last step, scored on" in notes([row | {"monitor": None} for row in rows])[0]


def test_a_note_says_that_runs_were_scored_on_different_images(outputs, tmp_path):
    rows = refresh("phantom", outputs, tmp_path / "rows")
    for row in rows:
        row["outcomes"] = {"planes": {"images": "same"}, "hc18": {"images": f"of {row['experiment']}"}}
    said = "Runs were scored on different images of hc18: not comparable; train the older ones again."
    assert said in notes(rows)
    assert said not in notes([row for row in rows if row["experiment"] == "srkd"])


def test_errors_of_age_and_the_interval_of_a_run_stand_beside_validity(outputs, tmp_path):
    rows = refresh("phantom", outputs, tmp_path / "rows")
    for row, width in zip(rows, (3.0, 5.0, 4.0), strict=True):
        row["metrics"] |= {"student/hc18/mae_weeks": 1.0 + width, "teacher/hc18/spearman": 0.9876}
        row["metrics"] |= {
            "student/hc18/validity_ci_low": 50 - width,
            "student/hc18/validity_ci_high": 50 + width,
        }
    table = cells(rows).set_index("experiment")
    assert [*table][1:4] == ["HC18 validity, %", "HC18 MAE, weeks", "HC18 Spearman"]
    assert table.loc["Teacher", "HC18 Spearman"] == "0.988"
    assert table.loc["No KD", "HC18 MAE, weeks"] == "4.00"
    assert table.loc["95 % interval of one run", "HC18 validity, %"] == "± 4.0"
    assert table.loc["95 % interval of one run", "five-plane F1"] == "-"


def test_data_without_planes_have_no_columns_for_them(outputs, tmp_path):
    rows = refresh("phantom", outputs, tmp_path / "rows")
    for row in rows:
        row["metrics"] = {name: value for name, value in row["metrics"].items() if "hc18" in name}
    header = to_markdown(cells(rows)).splitlines()[0]
    assert "F1" not in header
    assert "validity" in header


def test_a_users_own_benchmark_has_a_column_also_from_committed_rows(outputs, tmp_path):
    clinic = Benchmark(
        "clinic",
        "clinic F1",
        "clinic",
        "classification",
        "table",
        label="ward",
        prompts="clinic",
        headline="f1",
        own=True,
    )
    for seed, score in ((1, 0.61), (2, 0.65)):
        path = outputs / "srkd" / f"reproduce-phantom-s{seed}" / "results.json"
        own = json.loads(path.read_text())
        own["metrics"] |= {"student/clinic/f1": score, "teacher/clinic/f1": 0.5}
        path.write_text(json.dumps(own | {"benchmarks": json.loads(json.dumps([asdict(clinic)]))}))
    refresh("phantom", outputs, tmp_path / "rows")
    assert BENCHMARKS.pop("clinic") == clinic
    table = cells(read_rows(tmp_path / "rows" / "phantom.jsonl")).set_index("experiment")["clinic F1"]
    assert table.to_dict() == {
        "Teacher": "0.500", "Selective repulsive (SRKD)": "0.630 ± 0.028", "No KD": "-",
        "Student, random weights": "-",
        "Pixel size alone": "-", "Constant age 20w1d, majority class": "-", "95 % interval of one run": "-",
    }  # fmt: skip


def test_runs_with_other_arguments_have_a_table_of_their_own(outputs, tmp_path, make_table):
    put(outputs, "static-kd", 1, 55.0, 0.9, 0.7, arguments=["--trainer.max_epochs=1"])
    printed = make_table()
    assert "### DATA=phantom, --trainer.max_epochs=1" in printed
    names = {path.name for path in (outputs / "tables").iterdir()}
    tables = {f"phantom{group}.{kind}" for group in ("", "-1") for kind in ("md", "csv", "tex", "png")}
    assert names == tables | {"phantom.jsonl"}
    assert "Static" not in (outputs / "tables" / "phantom.md").read_text()
    assert Image.open(outputs / "tables" / "phantom.png").size[0] > 800


def test_rows_are_committed_only_on_request(outputs, tmp_path, make_table):
    committed = tmp_path / "rows" / "phantom.jsonl"
    refresh("phantom", outputs, committed.parent)
    before = committed.read_text()
    put(outputs, "no-kd", 9, 1.0, 0.1, 0.1)  # a try
    printed = make_table()
    assert "4 runs: 3 in " in printed
    assert " and 4 of make reproduce in " in printed
    assert committed.read_text() == before
    local = outputs / "tables" / "phantom.jsonl"
    assert {(row["experiment"], row["seed"]) for row in read_rows(local)} == {
        ("srkd", 1), ("srkd", 2), ("no-kd", 1), ("no-kd", 9),
    }  # fmt: skip
    assert f"rows: {local}" in printed
    local.unlink()
    for name in DOCUMENTS:
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text("<!-- table: phantom scores -->\n<!-- end of table -->")
    make_table("--commit", f"--documents={tmp_path / 'root'}")
    assert len(read_rows(committed)) == 4
    assert all("| No KD | 2 |" in (tmp_path / "root" / name).read_text() for name in DOCUMENTS)
    assert (tmp_path / "root" / "docs" / "results-phantom.png").is_file()
    assert not local.exists()


@pytest.mark.parametrize(
    ("data", "trained_on", "split", "seen"),
    [
        ("shards", {"hc18": "train", "planes": "train"}, "all", "planes"),
        ("shards", {"hc18": "train"}, "all", None),  # scored on planes, which it has not seen
        ("shards", {}, "all", None),  # a private corpus
        ("shards", {"planes": "train"}, "test", None),
        ("shards", {"planes": "all"}, "test", "planes"),  # made with --no-exclude-test
        ("planes", {}, "all", "planes"),
        ("planes", {}, "test", None),
        ("hc18", {}, "all", None),
    ],
)
def test_scored_training_images_are_noted(data, trained_on, split, seen, outputs, tmp_path):
    row = refresh("phantom", outputs, tmp_path / "rows")[0]
    row |= {"data": data, "trained_on": trained_on, "split": {"planes": split}}
    remark = f"Scored images include the training patients of {seen}: not comparable with the paper."
    assert [note for note in notes([row]) if "training patients" in note] == ([remark] if seen else [])


def test_training_images_of_hc18_are_noted_for_its_own_preset_alone(outputs, tmp_path):
    row = refresh("phantom", outputs, tmp_path / "rows")[0] | {"split": {"hc18": "all"}}
    for data, seen in (("hc18", True), ("planes", False)):
        assert ("training patients of hc18" in " ".join(notes([row | {"data": data}]))) == seen


def test_a_random_teacher_is_not_in_the_line_of_the_others_teacher(outputs, tmp_path):
    put(outputs, "random-teacher", 1, 55.0, 0.8, 0.6)
    path = outputs / "random-teacher" / "reproduce-phantom-s1" / "results.json"
    path.write_text(path.read_text().replace('"teacher/hc18/validity": 70.0', '"teacher/hc18/validity": 3.0'))
    summary = summarise(refresh("phantom", outputs, tmp_path / "rows"))
    assert summary.loc[("teacher", "hc18"), ["mean", "runs"]].tolist() == [70, 3]
    assert summary.loc[("random-teacher", "hc18"), "mean"] == 55


def test_a_missing_score_is_a_dash(outputs, tmp_path):
    path = outputs / "no-kd" / "reproduce-phantom-s1" / "results.json"
    path.write_text(
        path.read_text().replace('"student/hc18/validity": 50.0', '"student/hc18/validity": null')
    )
    rows = refresh("phantom", outputs, tmp_path / "rows")
    assert '"student/hc18/validity": null' in (tmp_path / "rows" / "phantom.jsonl").read_text()
    line = next(line for line in to_markdown(cells(rows)).splitlines() if line.startswith("| No KD"))
    assert [cell.strip() for cell in line.split("|")][3] == "-"


def test_without_runs_the_error_names_the_command(tmp_path):
    with pytest.raises(ValueError, match="make reproduce DATA=phantom"):
        main(["phantom", f"--outputs={tmp_path}", f"--results={tmp_path}"])
