"""The check of a card runs on a CPU at small sizes: everything that it measures, its guards, and its exit status."""

import gc
import json
import os
import subprocess
import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from benchmarks._record import Row
from benchmarks.gpu import check, loss, step, training
from benchmarks.gpu.stage import GOALS, Stage


def run(*arguments):
    return check.main([*map(str, arguments)])


def rows(folder, name):
    return [Row(**row) for row in json.loads((folder / f"{name}.json").read_text())["rows"]]


@pytest.fixture
def few_objects():
    """The stages collect garbage often: spare them the objects of all other tests."""
    gc.freeze()
    yield
    gc.unfreeze()


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
def test_a_quick_stage_measures_everything(name, measure, goals, tmp_path, monkeypatch, few_objects):
    precise = torch.set_float32_matmul_precision

    def set_precision(kind):
        """Compile the loss in float32 alone: TF32 is the same code."""
        torch.compiler.set_stance("force_eager" if kind == "high" else "default")
        precise(kind)

    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_precision)
    stage = Stage(name, tmp_path, quick=True)
    measure(stage)
    found = rows(tmp_path, name)
    for row in found:
        assert row.values, row.reason
        assert min(row.values) > 0
        assert row.target is None, "figures of a quick run mean nothing"
    measures = {(row.case, row.measure) for row in found}
    for goal in goals:
        case, measure = GOALS[goal].case, GOALS[goal].measure
        # Without a bare step a training has images/s alone.
        assert (case, "images/s" if name == "training" and goal != "validity" else measure) in measures


def two_pairs(folder):
    steps = step.Steps(Stage("step", folder, quick=True))
    steps.batch = {name: value[:2] for name, value in steps.batch.items()}
    return steps


def test_both_ways_train_their_own_student(tmp_path):
    steps = two_pairs(tmp_path)
    ours = steps.ours["eager"]
    models = steps.student, ours.student
    before = [[p.detach().clone() for p in model.parameters()] for model in models]
    steps.live_step("authors")
    steps.step("eager", "live")
    steps.step("eager", "cached")
    for model, old in zip(models, before, strict=True):
        assert not all(map(torch.equal, model.parameters(), old))
    assert all(map(torch.equal, steps.teacher.parameters(), ours.teacher.parameters()))


def test_a_step_in_parts_is_the_step_of_training(tmp_path):
    steps = two_pairs(tmp_path)
    steps.ours["parts"] = steps.module(False)
    marks = []
    torch.manual_seed(0)
    steps.step("eager", "live")
    torch.manual_seed(0)
    steps.live_step("parts", marks.append)
    one, other = (steps.ours[kind].student.parameters() for kind in ("eager", "parts"))
    for here, there in zip(one, other, strict=True):
        assert torch.equal(here, there)
    towers = [f"{role} {tower}" for role in ("teacher", "student") for tower in ("image", "text")]
    assert marks == ["copies", *towers, "loss", "backward", "optimiser"]


def test_a_failure_is_a_row_and_the_rest_goes_on(tmp_path, capsys):
    stage = Stage("loss", tmp_path, quick=True)

    def fail():
        stage.goal("loss", [1.0])
        raise RuntimeError("no kernel image\nmore")

    assert not stage.measured("what", fail)
    assert stage.measured("next", lambda: stage.add(Row("s", "after", "ms", [2])))
    before, failed, after = rows(tmp_path, "loss")
    assert before.values == [1]
    assert (failed.stage, failed.case, failed.values) == ("GPU loss", "what", [])
    assert failed.reason == "RuntimeError: no kernel image"
    assert after.values == [2]
    assert "in fail" in capsys.readouterr().err


@pytest.mark.parametrize(("gigabytes", "batch"), [(85.0, 512), (42.4, 256), (24.0, 128), (300.0, 512)])
def test_the_batch_fits_the_card(gigabytes, batch, tmp_path):
    """An H100 holds 61 GB beyond the weights at batch 512."""
    stage = Stage("step", tmp_path, quick=True)
    assert stage.batch == 4
    stage.quick, stage.facts["card"]["memory_gb"] = False, gigabytes
    assert stage.batch == batch


@pytest.mark.parametrize(("test", "share", "status"), [("assert True", [1.0], 0), ("assert False", [0.5], 1)])
def test_the_exit_status_is_that_of_the_tests(test, share, status, tmp_path, monkeypatch):
    code = "import pytest\n@pytest.mark.gpu\ndef test_a(): {}\n@pytest.mark.gpu\ndef test_b(): pass\n"
    (tmp_path / "test_x.py").write_text(code.format(test))
    monkeypatch.setattr(check, "TESTS", str(tmp_path))
    assert run("--quick", "--stages=tests", f"--out={tmp_path}/out") == status
    (row,) = rows(tmp_path / "out", "tests")
    assert row.values == share
    record = json.loads((tmp_path / "out" / "gpu.json").read_text())
    first, *others = (Row(**one) for one in record["rows"])
    assert first == row
    assert [other.measure for other in others if not other.values] == [
        goal.measure for goal in [*GOALS.values()][1:]
    ]


def running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_stage_ends_at_its_limit_with_what_it_has_started(tmp_path, monkeypatch, capsys):
    """The tests that have ended count. The limit comes once the last test has started its child."""
    child = "import subprocess; p = subprocess.Popen(['sleep', '600']); open(PATH, 'w').write(str(p.pid)); p.wait()"
    pid = tmp_path / "pid"
    (tmp_path / "test_x.py").write_text(
        f"PATH = '{pid}'\ndef test_a(): pass\ndef test_b(): exec({child!r}, globals())\n"
    )
    (tmp_path / "conftest.py").write_text(
        "def pytest_collection_modifyitems(items): [i.add_marker('gpu') for i in items]"
    )
    monkeypatch.setattr(check, "TESTS", str(tmp_path))
    wait = subprocess.Popen.wait

    def wait_for_child(process, timeout=None):
        while timeout == 4000 and process.poll() is None:
            if pid.is_file() and pid.read_text():
                raise subprocess.TimeoutExpired("pytest", timeout)
            time.sleep(0.1)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_for_child)
    assert run("--quick", "--stages=tests", "--limit=tests=4000", f"--out={tmp_path}/out") == 1
    assert "ended by its limit of 4000 s" in capsys.readouterr().out
    (row,) = rows(tmp_path / "out", "tests")
    assert row.values == [0.5]
    child = int(pid.read_text())
    assert any(not running(child) or time.sleep(0.1) for _ in range(600))


def test_a_training_says_how_long_the_card_is_idle(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text('#!/bin/sh\n[ "$1" = --id=GPU-0a1b ] && echo 37 % || echo 99 %\n')
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="0a1b"))
    samples = []
    with training.sampled_use(samples):
        assert any(samples or time.sleep(0.1) for _ in range(600))
    assert samples[0][1] == 0.37


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
