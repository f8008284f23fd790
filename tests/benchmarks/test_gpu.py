"""The check of a card runs on a CPU at small sizes: everything that it measures, its guards, and its exit status."""

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks._record import Row
from benchmarks.gpu import front, loss, step, training
from benchmarks.gpu.goals import GOALS
from benchmarks.gpu.stage import Stage

ROW = Row("s", "what", "ms", [])


def run(*arguments):
    return front.main([*map(str, arguments)])


def rows(folder, name):
    return [Row(**row) for row in json.loads((folder / f"{name}.json").read_text())["rows"]]


@pytest.mark.parametrize(
    ("name", "measure", "goals"),
    [
        ("step", step.run, {"live", "cached", "share"}),
        ("loss", loss.run, {"loss", "loss memory", "loss pair"}),
        pytest.param(
            "training",
            lambda s: training.run(s, False),
            {"shards", "squares", "validity"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_quick_stage_measures_everything(name, measure, goals, tmp_path):
    stage = Stage(name, tmp_path, quick=True, seconds=600)
    measure(stage)
    assert not (tmp_path / f"{name}.errors.log").exists()
    assert stage.reached == goals
    found = rows(tmp_path, name)
    assert len(found) >= len(goals)
    for row in found:
        assert row.values
        assert min(row.values) > 0
        assert row.target is None, "figures of a quick run mean nothing"
    assert {(GOALS[goal].case, GOALS[goal].measure) for goal in goals} <= {
        (row.case, row.measure) for row in found
    } | (
        {
            (GOALS[goal].case, GOALS[goal].measure) for goal in ("shards", "squares")
        }  # without a bare step: images/s
    )


def test_both_ways_train_their_own_student(tmp_path):
    steps = step.Steps(Stage("step", tmp_path, quick=True, seconds=60), 2)
    models = steps.student, steps.eager.student
    before = [[p.detach().clone() for p in model.parameters()] for model in models]
    steps.authors()
    steps.ours(steps.eager, "live")
    steps.ours(steps.eager, "cached")
    for model, old in zip(models, before, strict=True):
        assert not all(map(torch.equal, model.parameters(), old))
    assert all(map(torch.equal, steps.teacher.parameters(), steps.eager.teacher.parameters()))


def test_a_failure_is_a_row_and_the_rest_goes_on(tmp_path):
    stage = Stage("loss", tmp_path, quick=True, seconds=60)

    def fail():
        stage.goal("loss", [1.0])
        raise RuntimeError("no kernel image\nmore")

    assert not stage.measured(ROW, fail)
    assert not stage.measured(ROW, fail, "loss", "loss pair")
    assert not stage.measured(ROW, fail, needs=1e6)
    assert stage.measured(ROW, lambda: stage.add(Row("s", "after", "ms", [2])))
    reasons = [(row.case, row.reason) for row in rows(tmp_path, "loss") if not row.values]
    told = "RuntimeError: no kernel image"
    assert reasons[:2] == [("what", told), (GOALS["loss pair"].case, told)]
    assert reasons[2][1].startswith("left out: it needs 1000000 s and ")
    assert rows(tmp_path, "loss")[-1].values == [2]
    assert "in fail" in (tmp_path / "loss.errors.log").read_text()


def test_a_step_that_does_not_fit_is_measured_with_half_the_batch(tmp_path, monkeypatch):
    stage = Stage("step", tmp_path, quick=True, seconds=60)
    steps, taken = step.Steps(stage, 4), []

    def compare(steps, kind):
        taken.append(len(steps))
        if len(steps) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step, "compare", compare)
    step.eager(stage, steps)
    assert taken == [4, 2, 1]
    assert [row.reason for row in rows(tmp_path, "step")] == [
        "CUDA out of memory; batch 2 instead", "CUDA out of memory; batch 1 instead"
    ]  # fmt: skip


@pytest.mark.parametrize(("test", "share", "status"), [("assert True", [1.0], 0), ("assert False", [0.5], 1)])
def test_the_exit_status_is_that_of_the_tests(test, share, status, tmp_path, monkeypatch):
    code = "import pytest\n@pytest.mark.gpu\ndef test_a(): {}\n@pytest.mark.gpu\ndef test_b(): pass\n"
    (tmp_path / "test_x.py").write_text(code.format(test))
    monkeypatch.setattr(front, "TESTS", str(tmp_path))
    assert run("--quick", "--stages=tests", f"--out={tmp_path}/out") == status
    (row,) = rows(tmp_path / "out", "tests")
    assert row.values == share
    record = json.loads((tmp_path / "out" / "gpu.json").read_text())
    first, *others = (Row(**one) for one in record["rows"])
    assert first == row
    assert [other.measure for other in others if not other.values] == [
        goal.measure for goal in [*GOALS.values()][1:]
    ]


def test_a_stage_ends_at_its_limit_with_what_it_has_started(tmp_path, monkeypatch, capsys):
    child = "import subprocess; p = subprocess.Popen(['sleep', '60']); open(PATH, 'w').write(str(p.pid)); p.wait()"
    (tmp_path / "test_x.py").write_text(
        f"PATH = '{tmp_path}/pid'\ndef test_a(): exec({child!r}, globals())\n"
    )
    (tmp_path / "conftest.py").write_text(
        "def pytest_collection_modifyitems(items): [i.add_marker('gpu') for i in items]"
    )
    monkeypatch.setattr(front, "TESTS", str(tmp_path))
    start = time.monotonic()
    assert run("--quick", "--stages=tests", "--limit=tests=4", f"--out={tmp_path}/out") == 1
    assert time.monotonic() - start < 40
    assert "ended by its limit of 4 s" in capsys.readouterr().out
    if (tmp_path / "pid").exists():  # else the limit came before
        status = Path("/proc", (tmp_path / "pid").read_text(), "stat")
        assert not status.exists() or status.read_text().split()[2] == "Z"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "this machine has no CUDA device that torch can use; --quick tries the code on the CPU"),
        (["--stages=tests,speed"], "argument --stages: no such stage speed"),
        (["--limit=step"], "argument --limit: step: expected STAGE=SECONDS"),
    ],
)
def test_a_mistake_is_one_line(arguments, error, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {error}")
