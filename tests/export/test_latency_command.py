"""`make latency`: what it refuses before it times, what it writes first, and an export without its student's source."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments import latency
from experiments.latency import BUDGETS, open_subject, parse, read_baseline, write_report
from export.contract import contract_digest
from export.latency.backends import available
from export.latency.budget_file import read_budgets, settle_protocol
from export.latency.interleave import Timing
from export.latency.session import run_session

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("--bugets=x", "error: --bugets: no such option; did you mean --budgets?"),
        ("--base=x", "error: --base: no such option; "),
        (
            "--qqq",
            "error: --qqq: no such option; the options: .venv/bin/python -m experiments.latency --help",
        ),
    ],
)
def test_a_misspelt_option_is_one_line(capsys, given, line):
    with pytest.raises(SystemExit) as stop:
        parse([given])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert len(error.splitlines()) == 1


def made(*arguments):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    command = ["make", "--no-print-directory", "-n", "-o", ".venv/.ready", "latency", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_make_times_a_checkpoint_or_an_export_but_not_one_for_the_other():
    assert shlex.split(made("CKPT=a").stdout)[-2:] == ["experiments.latency", "a"]
    assert shlex.split(made("EXPORT=b").stdout)[-2:] == ["experiments.latency", "b"]
    both = made("CKPT=a", "EXPORT=b")
    assert both.returncode != 0
    assert "CKPT=... or EXPORT=..., not both" in both.stderr
    empty = made("EXPORT=")
    assert empty.returncode != 0
    assert "latency: EXPORT= is empty" in empty.stderr


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"backends": []}', '{"backends": {"a": 1}}', '{"backends": {"a": {"ratio": {}}}}'],
)
def test_a_baseline_that_is_none_is_refused_before_anything_is_timed(tmp_path, monkeypatch, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    monkeypatch.setattr(latency, "open_subject", lambda *_: pytest.fail("it went on"))
    with pytest.raises(ValueError, match=f"--baseline {path}: no latency.json of make latency") as refused:
        latency.run(["random:x", "--baseline", str(path)])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("backends", [{}, {"backends": [1]}, {"backends": {"a": {"ratio": 2.0}}}])
def test_a_baseline_of_another_format_is_a_note(tmp_path, capsys, backends):
    path = tmp_path / "latency.json"
    path.write_text(json.dumps({"machine": {}, "protocol": {}, **backends}))
    assert read_baseline(str(path)) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"latency: --baseline {path}: of another format (")
    assert line.endswith("; nothing is compared")


def test_a_baselines_broken_backends_are_no_mistake(tmp_path):
    path = tmp_path / "latency.json"
    path.write_text(json.dumps({"backends": {"a": {"error": "x"}, "b": {"ratio": {"median": 2.0}}}}))
    assert read_baseline(str(path))["backends"]["b"]["ratio"]["median"] == 2.0


def test_the_figures_are_written_before_the_report(tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError("a report with a fault")

    monkeypatch.setattr(latency, "markdown", broken)
    with pytest.raises(KeyError):
        write_report({"took": "minutes"}, tmp_path / "out", None)
    assert json.loads((tmp_path / "out" / "latency.json").read_text()) == {"took": "minutes"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["latency.json"]


@pytest.fixture
def from_elsewhere(copied):
    """An export whose student came from a folder that only the exporting machine had."""
    path = copied / "manifest.json"
    manifest = json.loads(path.read_text())
    recipe = {
        "class_path": "models.TransformersEncoder",
        "init_args": {"folder": "/elsewhere", "pretrained": False},
    }
    manifest["source"]["recipe"] = recipe
    assert manifest["contract_sha256"] == contract_digest(manifest["contract"])
    path.write_text(json.dumps(manifest))
    return copied


def test_an_export_without_its_students_source_is_timed_alone(from_elsewhere, tmp_path, monkeypatch, capsys):
    export, reason = open_subject(str(from_elsewhere), tmp_path, short=True)
    assert reason.startswith("the student cannot be rebuilt here: ")
    assert "/elsewhere" in reason
    asked = []
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 2, 3, 4}, raising=False)

    def timed(specs, rounds, repeats):
        asked.append(specs)
        return {name: Timing(dict(spec), [[2.0] * repeats] * rounds) for name, spec in specs.items()}

    monkeypatch.setattr("export.latency.session.time_interleaved", timed)
    monkeypatch.setattr("export.latency.session.play", lambda *_: ([], []))
    budgets = read_budgets(BUDGETS)
    record = run_session(export, reason, budgets, settle_protocol(budgets, True), "a machine", tmp_path)
    assert "onnxruntime" in record["backends"]
    assert record["machine"]["cores"] == record["machine"]["threads"] == 4
    assert {spec["threads"] for spec in asked[0].values() if "threads" in spec} <= {1, 4}
    assert asked[0]["onnxruntime"]["threads"] == 4
    assert {spec["threads"] for spec in asked[1].values()} == {1, 2, 4}
    assert not {"torch-eager", "torch-fused"} & set(asked[0])
    assert record["absent"]["torch-eager"] == reason
    found = {verdict["budget"].split(":")[0]: verdict for verdict in record["verdicts"]}
    assert (found["onnxruntime"]["status"], found["onnxruntime"]["note"]) == (
        "not applicable",
        "no torch-eager to compare with",
    )
    assert {spec["batch"] for spec in asked[1].values()} == {1}, "the exported file has one batch size"
    text = write_report(record, tmp_path / "out", None)
    row = next(line for line in text.splitlines() if line.startswith("| onnxruntime | 2.00"))
    assert row.split(" | ")[5:7] == ["-", "-"]
    assert f"torch-eager, torch-fused ({reason})" in text
    assert (tmp_path / "out" / "latency.png").stat().st_size > 1000


def test_a_yardstick_that_is_absent_here_is_named_before_anything_is_timed(
    exported, student, tmp_path, monkeypatch
):
    monkeypatch.setattr("export.latency.session.time_interleaved", lambda *_: pytest.fail("it went on"))
    state = {**available(), "openvino": "not installed"}
    monkeypatch.setattr("export.latency.specs.available", lambda: state)
    budgets = {**read_budgets(BUDGETS), "yardstick": "openvino"}
    with pytest.raises(ValueError, match="the yardstick openvino cannot be timed: not installed"):
        run_session(exported, student, budgets, settle_protocol(budgets, True), None, tmp_path)
