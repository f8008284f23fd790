"""Rows of finished runs: what they keep, which replaces which, and which share a table."""

import pytest

from experiments.runs.input_digests import content_digests
from experiments.suites.result_rows import RESULTS, group_of, identity, read_rows, refresh, write_rows
from experiments.suites.table import notes, write_tables
from tests.experiments.suites.conftest import put


def notes_on(rows, word):
    """Return the notes with a word of each table's group of rows."""
    groups = {group_of(row): row for row in rows}
    return [note for row in groups.values() for note in notes([row]) if word in note]


def weights_in(folder, content, name="weights.pt"):
    """Write a file of weights, and return what `make reproduce TEACHER=` records of it."""
    folder.mkdir()
    (folder / name).write_bytes(content)
    arguments = [f"--teacher={folder / name}", "--trainer.max_epochs=2"]
    return {"arguments": arguments, "digests": content_digests(arguments)}


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
    assert len({group_of(row) for row in rows}) == len({(row["student"], *row["arguments"]) for row in rows})


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


def test_uncommitted_code_and_other_numbers_of_steps_are_told(outputs, tmp_path):
    first, second = refresh("phantom", outputs, tmp_path / "rows")[:2]
    assert [note for note in notes([first, second]) if "Runs of" in note] == []
    told = notes([first, second | {"steps": 72, "git_commit": "abcdef0123-dirty"}])
    assert [note for note in told if "Runs of" in note] == [
        "Runs of 9, 72 steps: other numbers of processes or other data; not comparable.",
        "Runs of several commits or of uncommitted code, which may differ: abc, abcdef0-dirty.",
    ]
    assert [note for note in notes([first | {"git_commit": "a-dirty"}]) if "uncommitted" in note] != []


def test_other_data_have_a_table_of_their_own(outputs, tmp_path):
    for seed, digest in enumerate(("one", "two"), start=1):
        put(outputs, "srkd", seed, 60.0, 0.9, 0.7, digests={"HC18_ROOT": digest})
    rows = refresh("phantom", outputs, tmp_path / "rows")
    assert len({group_of(row) for row in rows}) == 3, "and the row without data is a third"
    given = [f"Data given (SHA-256): HC18_ROOT {digest}." for digest in ("one", "two")]
    assert notes_on(rows, "Data given") == given
    assert notes_on(rows, "parameters")[0].startswith("Student: 1.23 M parameters (")
    for row in rows:
        row["finished"] = {"one": "2024", "two": "2026"}.get(row["digests"].get("HC18_ROOT"), "2025")
    titles = [text.splitlines()[0] for text in write_tables(rows, tmp_path / "tables")]
    one, two = (f"### DATA=phantom, HC18_ROOT {digest}, prompts abc" for digest in ("one", "two"))
    assert titles == [two, "### DATA=phantom, prompts abc", one], "the newest first, as in the documents"


def test_a_malformed_file_of_rows_is_named(tmp_path):
    write_rows([{"a": 1}], tmp_path / "x.jsonl")
    assert read_rows(tmp_path / "x.jsonl") == [{"a": 1}]
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(ValueError, match=r"x\.jsonl: a line is not JSON"):
        read_rows(tmp_path / "x.jsonl")
