"""A latency run: on a simulated Mac, without the student's source, and as a whole."""

import json
from pathlib import Path

import pytest
import yaml

from experiments.commands.latency import main, open_subject, write_report
from experiments.recipe_files import LATENCY
from export.graphs.contract import contract_digest
from export.latency.backends import available, backend_specs, stage_specs
from export.latency.budgets import read_budgets
from export.latency.interleave import Timing, live_scans, thermal_drifts
from export.latency.session import run_session
from models.student.manifest import seal


def test_live_scans_and_drift_with_core_ml(mac, exported, monkeypatch):
    specs, _ = backend_specs(exported, threads=2)
    stages = stage_specs(exported, specs)
    live = ["end-to-end, onnxruntime", "end-to-end, coreml-all", "end-to-end, coreml-ane"]
    assert list(stages) == ["preprocess", "heads", *live]
    assert [stages[name]["encoder"] for name in live] == ["onnxruntime", "coreml-all", "coreml-ane"]
    assert [Path(stages[name]["path"]).suffix for name in live] == [".onnx", ".mlpackage", ".mlpackage"]

    class Worker:
        def __init__(self, spec):
            self.name = spec.get("encoder", spec["backend"])
            if spec["backend"] == "coreml-ane":
                raise RuntimeError("coreml-ane: no Neural Engine in a virtual machine")

        def ask(self, seconds, frames_per_second=None):
            if frames_per_second is None:
                return {"ms": [1.0, 1.0, 1.0, 1.0, 2.0]}
            if self.name == "coreml-all" and frames_per_second == 60:
                raise RuntimeError("end-to-end: its process ended without an answer")
            return {"frames_per_second": frames_per_second, "frames": 1}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("export.latency.interleave.Worker", Worker)
    played = live_scans(stages, [30, 60], 1.0)
    drifts = thermal_drifts({name: specs[name] for name in ("onnxruntime", "coreml-all", "coreml-ane")}, 1.0)
    told = [(scan["encoder"], scan["frames_per_second"], scan.get("error", "")) for scan in played]
    died = "end-to-end: its process ended without an answer"
    assert told == [
        ("onnxruntime", 30, ""), ("onnxruntime", 60, ""), ("coreml-all", 30, ""), ("coreml-all", 60, died),
        ("coreml-ane", 30, ""), ("coreml-ane", 60, ""),
    ]  # fmt: skip
    assert [(drift["encoder"], drift.get("drift")) for drift in drifts] == [
        ("onnxruntime", 1.0), ("coreml-all", 1.0), ("coreml-ane", None)
    ]  # fmt: skip
    assert "no Neural Engine" in drifts[2]["error"]


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
    path.write_text(json.dumps(seal(manifest)))
    return copied


def test_an_export_whose_student_cannot_be_built(from_elsewhere, tmp_path, monkeypatch, capsys):
    export, reason = open_subject(str(from_elsewhere), tmp_path, short=True)
    assert reason.startswith("the student cannot be rebuilt here: ")
    assert "/elsewhere" in reason
    asked = []
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 2, 3, 4}, raising=False)

    def timed(specs, rounds, repeats):
        asked.append(specs)
        facts = {"cold_start_ms": 9.0, "load_ms": 5.0, "first_call_ms": 3.0, "peak_mb": 100.0}
        times = [[2.0] * repeats] * rounds
        return {name: Timing(dict(spec), times, times, facts) for name, spec in specs.items()}

    monkeypatch.setattr("export.latency.session.time_interleaved", timed)
    monkeypatch.setattr("export.latency.session.live_scans", lambda *_: [])
    monkeypatch.setattr("export.latency.session.thermal_drifts", lambda *_: [])
    budgets = read_budgets(LATENCY)
    record = run_session(export, reason, budgets, True, "a machine", tmp_path)
    assert "onnxruntime" in record["backends"]
    assert record["machine"]["cores"] == record["machine"]["threads"] == 4
    assert asked[0]["onnxruntime"]["threads"] == 4
    throughput, single = asked[1:3]
    assert {spec["threads"] for spec in single.values()} == {1}
    assert {"onnxruntime", "matmul-float32"} <= set(single)
    assert {spec["threads"] for spec in throughput.values()} == {1, 2, 4}
    assert not {"torch-eager", "torch-fused"} & set(asked[0])
    assert record["absent"]["torch-eager"] == reason
    found = {verdict["budget"].split(":")[0]: verdict for verdict in record["verdicts"]}
    assert (found["onnxruntime"]["status"], found["onnxruntime"]["note"]) == (
        "not applicable",
        "no torch-eager to compare with",
    )
    assert {spec["batch"] for spec in throughput.values()} == {1}, "the exported file has one batch size"
    text = write_report(record, tmp_path / "out", None)
    row = next(line for line in text.splitlines() if line.startswith("| onnxruntime | 2.00"))
    assert row.split(" | ")[5:8] == ["2.00", "-", "-"]
    assert f"torch-eager, torch-fused ({reason})" in text
    assert (tmp_path / "out" / "latency.png").stat().st_size > 1000


def test_an_absent_reference_is_rejected_before_anything_is_timed(exported, student, tmp_path, monkeypatch):
    monkeypatch.setattr("export.latency.session.time_interleaved", lambda *_: pytest.fail("it went on"))
    state = {**available(), "openvino": "not installed"}
    monkeypatch.setattr("export.latency.backends.available", lambda: state)
    budgets = read_budgets(LATENCY).model_copy(update={"reference": "openvino"})
    with pytest.raises(ValueError, match="the reference openvino cannot be timed: not installed"):
        run_session(exported, student, budgets, True, None, tmp_path)


def time_with(monkeypatch, timed):
    """Replace the timing of a session by `timed`, and leave out what takes long."""
    for name, result in {
        "time_interleaved": timed,
        "write_onnx": lambda *_, **__: None,
        "live_scans": lambda *_: [],
        "thermal_drifts": lambda *_: [],
    }.items():
        monkeypatch.setattr(f"export.latency.session.{name}", result)


def test_a_reference_that_dies_while_one_thread_is_timed_ends_the_command(
    exported, student, tmp_path, monkeypatch
):
    def timed(specs, *_):
        error = "killed" if "matmul-float32" in specs else ""
        return {
            name: Timing(
                dict(spec), [[4.0]] * 4, [[4.0]] * 4, {}, error=error if name == "torch-eager" else ""
            )
            for name, spec in specs.items()
        }

    time_with(monkeypatch, timed)
    with pytest.raises(ValueError, match="the reference cannot be timed: killed"):
        run_session(exported, student, read_budgets(LATENCY), True, None, tmp_path)


def test_what_cannot_be_decided_is_timed_again_once_and_has_its_own_status(
    exported, student, tmp_path, monkeypatch, capsys
):
    tries, busy = [], [0]

    def timed(specs, rounds, repeats):
        facts = {"cold_start_ms": 9.0, "load_ms": 5.0, "first_call_ms": 3.0, "peak_mb": 100.0}
        single = "matmul-float32" in specs
        tries.append(single)
        noise = [[4.0], [40.0], [400.0], [4.0]]  # a program beside it, of the reference's rounds alone
        found = {name: Timing(dict(spec), [[4.0]] * 4, [[4.0]] * 4, facts) for name, spec in specs.items()}
        if single and sum(tries) <= busy[0]:
            found["torch-eager"].cpu_rounds = noise
        return found

    time_with(monkeypatch, timed)
    budgets = yaml.safe_load(LATENCY.read_text())
    budgets["ratios"] = {"onnxruntime": {"at_least": 0.9}}
    (tmp_path / "budgets.yaml").write_text(yaml.safe_dump(budgets))
    arguments = [str(exported.folder), f"--budgets={tmp_path / 'budgets.yaml'}", f"--out={tmp_path / 'out'}"]
    for disturbed, more, status in ((1, [], 0), (9, [], 3), (9, ["--ci"], 0)):
        busy[0] = disturbed
        tries.clear()
        assert main([*arguments, *more]) == status
        assert sum(tries) == 2
    assert "not decidable here: onnxruntime: at least 0.9 times torch-eager" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_command_on_an_export(exported, tmp_path, capsys):
    budgets = yaml.safe_load(LATENCY.read_text())
    budgets["ratios"] = {"onnxruntime": {"at_least": 0.001, "reach": 3.0}}
    path = tmp_path / "budgets.yaml"
    path.write_text(yaml.safe_dump(budgets))
    arguments = [str(exported.folder), "--ci", "--budgets", str(path), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    record = json.loads((tmp_path / "out" / "latency.json").read_text())
    assert {"torch-eager", "torch-fused", "onnxruntime"} <= set(record["backends"])
    live = set(record["backends"]) & {"coreml-all", "coreml-ane"}
    assert {"preprocess", "heads"} | {f"end-to-end, {name}" for name in ["onnxruntime", *live]} == set(
        record["stages"]
    )
    assert [scan["frames"] for scan in record["live_scans"]] == [60, 120] * (1 + len(live))
    assert "## Latency" in capsys.readouterr().out
    budgets["ratios"]["onnxruntime"]["at_least"] = 1e6
    path.write_text(yaml.safe_dump(budgets))
    assert main([*arguments, "--baseline", str(tmp_path / "out" / "latency.json")]) == 1
    captured = capsys.readouterr()
    assert "onnxruntime: at least 1e" in captured.err
    assert "ratio before" in captured.out
