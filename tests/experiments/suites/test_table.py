"""Rows, means, deviations and every format of a suite's table, against numbers computed by hand."""

import csv
import io
import json
from dataclasses import asdict

import pytest
from PIL import Image

from experiments.commands.results import table as main
from experiments.runs.input_digests import content_digests
from experiments.suites.documents import DOCUMENTS
from experiments.suites.result_rows import RESULTS, group_of, identity, read_rows, refresh, write_rows
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

HEADS = {"samples": [{"name": "x", "patient": "Ada", "target": "HC", "assessed": True, "correct": True}]}


def record(experiment, seed, validity, planes, subplanes):
    metrics = {}
    for model, shift in (("teacher", None), ("student", 0.0), ("random", -0.4)):
        scores = (
            (0.9, 0.8, 70.0) if shift is None else (planes + shift, subplanes + shift, validity + 100 * shift)
        )
        keys = ("planes/f1", "subplanes/f1", "hc18/validity")
        metrics |= {f"{model}/{key}": value for key, value in zip(keys, scores, strict=True)}
    metrics |= {"constant/hc18/age_days": 141.0, "constant/hc18/validity": 59.1}
    metrics |= {"constant/planes/f1": 0.1, "constant/subplanes/f1": 0.2, "pixel_size/hc18/validity": 64.1}
    for model in ("teacher", "student", "random", "constant"):
        planes, subplanes = (metrics[f"{model}/{name}/f1"] for name in ("planes", "subplanes"))
        metrics[f"{model}/eight_class/f1"] = (5 * planes + 3 * subplanes) / 8
    return {
        "experiment": experiment, "data": "phantom", "seed": seed, "metrics": metrics,
        "details": {"student": {"planes": {"split": "test", "protocol": "abc"}, "probe": {}, "hc18": HEADS}},
        "selection": {"monitor": "val/composite", "score": 0.5, "checkpoint": "x"},
        "parameters": {"student": 1_230_000, "teacher": 5}, "steps": 9, "seconds": 1.5, "finished": "2026",
        "git_commit": "abc", "versions": {"python": "3.11", "torch": "2", "lightning": "2", "wandb": "0"},
        "machine": {"cpus": 2},
    }  # fmt: skip


def put(outputs, experiment, seed, *scores, arguments=(), **more):
    folder = outputs / experiment / f"reproduce-phantom-s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    request = {"arguments": list(arguments), "digests": {}, "trained_on": {}, **more}
    (folder / "request.json").write_text(json.dumps(request))
    (folder / "results.json").write_text(json.dumps(record(experiment, seed, *scores)))


@pytest.fixture
def outputs(tmp_path):
    put(tmp_path, "srkd", 1, 60.0, 0.90, 0.70)
    put(tmp_path, "srkd", 2, 64.0, 0.94, 0.79)
    put(tmp_path, "no-kd", 1, 50.0, 0.80, 0.60)
    (tmp_path / "srkd" / "reproduce-phantom-s3").mkdir()  # still running
    (tmp_path / "srkd" / "reproduce-phantom-s3" / "request.json").write_text('{"arguments": []}')
    (tmp_path / "srkd" / "phantom-s0-20260101").mkdir()  # a run outside any suite
    (tmp_path / "srkd" / "phantom-s0-20260101" / "results.json").write_text(
        json.dumps(record("srkd", 0, 1, 1, 1))
    )
    return tmp_path


@pytest.fixture
def make_table(outputs, tmp_path, capsys):
    """Return what `make table` prints of the outputs."""

    def make_table(*options):
        assert main(["phantom", f"--outputs={outputs}", f"--results={tmp_path / 'rows'}", *options]) == 0
        return capsys.readouterr().out

    return make_table


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


def test_a_note_says_that_runs_were_scored_on_different_images(outputs, tmp_path):
    rows = refresh("phantom", outputs, tmp_path / "rows")
    for row in rows:
        row["outcomes"] = {"planes": {"images": "same"}, "hc18": {"images": f"of {row['experiment']}"}}
    said = "Runs were scored on different images of hc18: not comparable; run the older again."
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


def test_committed_rows_are_kept_and_repeated_runs_replaced(outputs, tmp_path):
    rows = tmp_path / "rows"
    assert len(refresh("phantom", outputs, rows)) == 3
    committed = (rows / "phantom.jsonl").read_text()
    assert len(committed.splitlines()) == 3
    put(outputs, "srkd", 1, 99.0, 0.9, 0.7)
    (outputs / "no-kd" / "reproduce-phantom-s1" / "results.json").unlink()
    again = refresh("phantom", outputs, rows)
    assert len(again) == 3
    assert [r["metrics"]["student/hc18/validity"] for r in again] == [50.0, 99.0, 64.0]
    unchanged = (rows / "phantom.jsonl").stat().st_mtime_ns
    refresh("phantom", outputs, rows)
    assert (rows / "phantom.jsonl").stat().st_mtime_ns == unchanged


def test_rows_name_files_without_the_users_folders(outputs, tmp_path):
    put(
        outputs,
        "srkd",
        1,
        60.0,
        0.9,
        0.7,
        arguments=[
            "--teacher=/home/ada/FetalCLIP.pt",
            "--data.images=/home/ada/raw",
        ],  # no digest identifies these
    )
    rows = refresh("phantom", outputs, tmp_path / "rows")
    assert ["--teacher=FetalCLIP.pt", "--data.images=raw"] in [row["arguments"] for row in rows]


def test_rows_keep_outcomes_and_the_student_but_no_folder_and_no_patient(outputs, tmp_path):
    given = [
        "--data.root=/home/ada/HC18",
        "--data.init_args.cache=/tmp/c",
        "--data.planes_root=/home/ada/planes",
        "--trainer.enable_progress_bar=false",
    ]
    put(outputs, "srkd", 1, 60.0, 0.9, 0.7, arguments=given, student="fifth")
    rows = refresh("phantom", outputs, tmp_path / "rows")
    (row,) = [row for row in rows if row["student"] == "fifth"]
    assert row["arguments"] == []
    assert (row["outcomes"]["hc18"]["patients"], row["outcomes"]["hc18"]["correct"]) == ([1], "1")
    assert "ada" not in (tmp_path / "rows" / "phantom.jsonl").read_text().lower()


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


def notes_on(rows, word):
    """Return the notes with a word of each table's group of rows."""
    groups = {group_of(row): row for row in rows}
    return [note for row in groups.values() for note in notes([row]) if word in note]


def test_two_prompt_files_of_one_name_have_two_tables(outputs, tmp_path):
    rows = tmp_path / "rows"
    given = ["--protocol=/home/ada/protocol.json"]
    put(outputs, "srkd", 1, 60.0, 0.9, 0.7, arguments=given)
    refresh("phantom", outputs, rows)
    path = outputs / "srkd" / "reproduce-phantom-s1" / "results.json"
    path.write_text(path.read_text().replace('"protocol": "abc"', '"protocol": "def"'))
    found = [row for row in refresh("phantom", outputs, rows) if row["arguments"]]
    assert [note.rpartition("prompts ")[2] for note in notes_on(found, "with the prompts")] == [
        "abc.",
        "def.",
    ]


def weights_in(folder, content, name="weights.pt"):
    """Write a file of weights, and return what `make reproduce TEACHER=` records of it."""
    folder.mkdir()
    (folder / name).write_bytes(content)
    arguments = [f"--teacher={folder / name}", "--trainer.max_epochs=2"]
    return {"arguments": arguments, "digests": content_digests(arguments)}


def test_two_weights_of_one_name_have_two_tables(outputs, tmp_path, make_table):
    rows = tmp_path / "rows"
    given = [weights_in(tmp_path / name, content) for name, content in (("a", b"one"), ("b", b"two"))]
    put(outputs, "srkd", 1, 60.0, 0.9, 0.7, **given[0])
    assert len(refresh("phantom", outputs, rows)) == 3
    put(outputs, "srkd", 1, 70.0, 0.9, 0.7, **given[1])  # replaces the first run, which was moved away
    found = refresh("phantom", outputs, rows)
    scores = {row["metrics"]["student/hc18/validity"] for row in found if row["digests"]}
    assert scores == {60.0, 70.0}, "the second does not replace the first"
    names = [row["arguments"][0] for row in found if row["digests"]]
    assert names == ["--teacher=weights.pt"] * 2, "the rows name no folder"
    printed = make_table()
    assert printed.count("### DATA=phantom, --teacher=weights.pt --trainer.max_epochs=2") == 2
    for one in given:
        assert f"Weights given (SHA-256): teacher {one['digests']['--teacher']}." in printed


def test_the_same_weights_at_two_paths_share_a_table(outputs, tmp_path):
    given = [weights_in(tmp_path / name, b"one", f"{name}.pt") for name in ("a", "b")]
    for seed, one in enumerate(given, start=1):
        put(outputs, "srkd", seed, 60.0, 0.9, 0.7, **one)
    rows = [row for row in refresh("phantom", outputs, tmp_path / "rows") if row["digests"]]
    assert [row["arguments"][0] for row in rows] == ["--teacher=a.pt", "--teacher=b.pt"]
    assert len({group_of(row) for row in rows}) == 1
    put(outputs, "srkd", 1, 99.0, 0.9, 0.7, **given[1])
    again = [row for row in refresh("phantom", outputs, tmp_path / "rows") if row["digests"]]
    assert [row["metrics"]["student/hc18/validity"] for row in again] == [99.0, 60.0], "replaced, not added"


def test_committed_rows_without_digests_are_grouped_by_their_arguments():
    rows = [row for row in read_rows(RESULTS / "phantom.jsonl") if not row["digests"]]
    assert len(rows) >= 12
    assert len({identity(row) for row in rows}) == len(rows)
    assert all(group_of(row)[0] == tuple(row["arguments"]) for row in rows)
    assert len({group_of(row) for row in rows}) == len({row["student"] for row in rows})


def test_committed_rows_are_consistent():
    """Ordinary accuracy is a count over a count; a class's recall is not, and neither is a mean of them."""
    for row in read_rows(RESULTS / "phantom.jsonl"):
        metrics = row["metrics"]
        for name in (
            f"{model}/{b}" for model in ("student", "teacher", "random") for b in ("planes", "subplanes")
        ):
            right = metrics[f"{name}/accuracy"] * metrics[f"{name}/total"]
            assert right == pytest.approx(round(right), abs=1e-6), name
            assert 0 < metrics[f"{name}/balanced_accuracy"] <= metrics[f"{name}/balanced_top2_accuracy"] <= 1
        heads = {metrics[f"{model}/hc18/total"] for model in ("student", "teacher", "random", "constant")}
        assert len(heads) == 1
        validity = pytest.approx(100 * metrics["constant/hc18/valid"] / heads.pop())
        assert metrics["constant/hc18/validity"] == validity
        ends = [name for name in metrics if name.endswith(("ci_low", "ci_high"))]
        assert {name.rsplit("/", 1)[1] for name in ends} == {
            f"{metric}{images}_ci_{end}"
            for metric in ("f1", "validity")
            for images in ("", "_patient")
            for end in ("low", "high")
        } | {
            f"{changed}_validity_ci_{end}"
            for changed in ("black_image", "other_image", "one_pixel_size")
            for end in ("low", "high")
        }


def test_other_data_have_a_table_of_their_own(outputs, tmp_path):
    for seed, digest in enumerate(("one", "two"), start=1):
        put(outputs, "srkd", seed, 60.0, 0.9, 0.7, digests={"HC18_ROOT": digest})
    rows = refresh("phantom", outputs, tmp_path / "rows")
    assert len({group_of(row) for row in rows}) == 3, "and the row without data is a third"
    given = [f"Data given (SHA-256): HC18_ROOT {digest}." for digest in ("one", "two")]
    assert notes_on(rows, "Data given") == given
    assert notes_on(rows, "parameters")[0].startswith("Student: 1.23 M parameters (")


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


def test_a_malformed_file_of_rows_is_named(tmp_path):
    write_rows([{"a": 1}], tmp_path / "x.jsonl")
    assert read_rows(tmp_path / "x.jsonl") == [{"a": 1}]
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(ValueError, match=r"x\.jsonl: a line is not JSON"):
        read_rows(tmp_path / "x.jsonl")
