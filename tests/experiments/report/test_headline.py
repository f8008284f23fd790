"""The report's table of headline scores."""

from dataclasses import replace

from experiments.report import tables
from experiments.report.read_run import read_run
from metrics.benchmarks import BENCHMARKS
from metrics.names import final_composite_name


def test_students_without_a_benchmark_are_not_the_highest(make_run):
    runs = [read_run(make_run(run=name, skill=skill)) for name, skill in (("a", 1.0), ("b", 4.0))]
    _, *students = tables.headline(runs, ["a", "b"]).rows[:3]
    assert ["highest" in str(row) for row in students] == [False, True]
    for run in runs:
        del run.record["metrics"][final_composite_name("student")]
    assert "highest" not in str(tables.headline(runs, ["a", "b"]))


def test_the_papers_rows_stand_beside_its_own_benchmarks_only(make_run, monkeypatch):
    run = read_run(make_run())
    shown = tables.headline([run], ["a"])
    assert [row for row in shown.rows if isinstance(row, str)][-1].startswith("The paper")
    for name, one in [*BENCHMARKS.items()]:
        monkeypatch.setitem(BENCHMARKS, name, replace(one, own=True))
    shown = tables.headline([run], ["a"])
    assert "paper" not in str(shown.rows)
    assert tables.EIGHT_TITLE not in shown.head
