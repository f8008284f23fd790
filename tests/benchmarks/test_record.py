"""Timing in turns, rows and their spread, targets, pooling of processes, and the page."""

import json

import pytest

from benchmarks._record import Row, in_turns, interleave, pool
from benchmarks._table import BEGIN, END, FIGURE, PAGE, RESULTS, write_page
from benchmarks.gpu.stage import GOALS


def test_turns_alternate_and_return_all_results():
    order = []

    def way(name):
        return lambda: order.append(name) or len(order)

    assert in_turns({"a": way("a"), "b": way("b")}, 3) == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert "".join(order) == "abbaab"
    times = interleave({"a": way("a")}, 3)
    assert times["a"].shape == (3,)
    assert (times["a"] >= 0).all()
    assert len(order) == 6 + 4, "one call warms up"


@pytest.mark.parametrize(
    ("values", "target", "better", "expected"),
    [
        ([5, 6, 7], 6, "higher", True),
        ([5, 5.9, 7], 6, "higher", False),
        ([0.04], 0.05, "lower", True),
        ([0.06], 0.05, "lower", False),
        ([1], None, "higher", None),
        ([], 6, "higher", None),
    ],
)
def test_the_median_meets_the_target(values, target, better, expected):
    row = Row("s", "c", "x", values, target, better)
    assert row.met is expected
    assert ("missed" in row.line()) is (expected is False)


LINES = [
    (
        Row("loss", "512", "times faster", [5, 6, 7], 4.5, limit="products", times_limit=[2]),
        "| loss | 512 | 6 (5.2-6.8) times faster | at least 4.5: met | 2 x products |  |",
    ),
    (
        Row("loss", "64", "times faster", [2], 3, limit="products", times_limit=[1.2]),
        "| loss | 64 | 2 times faster | at least 3: **missed** (it takes 1.2 x products, which alone would be 2.4 "
        "times faster) | 1.2 x products |  |",
    ),
    (
        Row("disk", "cache", "of it", [6], 5, "lower", reason="it reads 1 MB/s", note="a note"),
        "| disk | cache | 6 of it | at most 5: **missed** (it reads 1 MB/s) |  | a note |",
    ),
    (
        Row("GPU", "live", "times", [], 1.5, reason="no CUDA\n| device"),
        "| GPU | live | not run: no CUDA / device (times) | at least 1.5: **not run** |  |  |",
    ),
]


@pytest.mark.parametrize(("row", "line"), LINES)
def test_lines_of_the_table(row, line):
    assert row.line() == line


def test_rounds_of_several_processes_are_pooled():
    def process(values, reason):
        row = Row("s", "c", "x", values, seconds={"ours": values}, times_limit=values, reason=reason)
        gpu = Row("s", "gpu", "x", [] if values == [11] else [1.0], reason="no CUDA device")
        return [row, gpu]

    row, gpu = pool([process([1, 2], "a"), process([4, 6], "b"), process([11], "c")])
    assert row.values == row.seconds["ours"] == row.times_limit == [1, 2, 4, 6, 11]
    assert row.reason == "b", "of the process nearest to the median"
    assert gpu.values == [], "a row that one process could not run counts as not run"


def test_the_page_is_written_between_its_marks(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n")
    versions = {"torch": "2.9", "python": "3.11"}
    facts = {"device": "CPU", "cores": 2, "load_average": 0.51, "versions": versions, "allocator": {}}
    rows = [vars(row) for row, _ in LINES]
    record = {"benchmark": "a", "machine": facts, "commit": "0123456789abcdef-dirty", "rows": rows}
    (tmp_path / "a.json").write_text(json.dumps(record))
    write_page(page, tmp_path)
    first = page.read_text()
    write_page(page, tmp_path)
    assert page.read_text() == first, "a second time gives the same page"
    lines = first.splitlines()
    assert lines[0] == "# Before"
    assert lines[-1] == "after"
    assert {line for _, line in LINES} <= set(lines)
    assert "| a | CPU | 2 | 0.5 | default | 2.9 | 0123456789-dirty |" in lines
    missing = 1 + len(GOALS)  # the card's rows, too
    assert f"Of {3 + missing} targets 2 are missed and {missing} could not be measured here." in lines


def test_the_page_shows_what_a_card_has_measured(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    write_page(page, tmp_path)
    assert page.read_text().count("**not run**") == len(GOALS)
    facts = {"device": "H100", "cores": 2, "load_average": 0.5, "allocator": {}, "versions": {"torch": "2.9"}}
    record = {"benchmark": "gpu", "machine": facts, "commit": "0123", "rows": [vars(LINES[0][0])]}
    for parts in ({}, {"parts": {"ours": {"copies": 1.0, "loss": 2.5}}}):
        (tmp_path / "gpu.json").write_text(json.dumps({**record, "facts": parts}))
        write_page(page, tmp_path)
        assert "**not run**" not in page.read_text()
        assert (FIGURE in page.read_text()) == (tmp_path / FIGURE).is_file() == bool(parts)


def test_the_page_in_docs_shows_the_stored_results(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(PAGE.read_text())
    write_page(page, RESULTS)
    assert page.read_text() == PAGE.read_text(), "run make bench ARGS=--table"
