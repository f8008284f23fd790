"""The harness on fake clocks and made-up times, and one real worker."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread
from PIL import Image

from experiments.latency import BUDGETS, run
from export.latency.backends import frame_to_answers, lay_out, to_square
from export.latency.budget_file import read_budgets
from export.latency.budgets import NOT_APPLICABLE, OVER, check_budgets, over_budget
from export.latency.coreml_stopwatch import MAC
from export.latency.interleave import Timing, speed_ratio, time_interleaved
from export.latency.machine import image_cost, matmul_gflops
from export.latency.plot import draw
from export.latency.report import markdown
from export.latency.scene import run_scene
from export.latency.session import what_holds_back, with_phone
from export.latency.specs import matmul_peaks, matmul_specs, share_of_peak
from export.latency.worker import Worker
from models import fused_copy


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += seconds


@pytest.mark.parametrize(
    ("fps", "work_ms", "processed"),
    [(30, 5, 60), (30, 33, 60), (60, 10, 120), (60, 33.4, 60), (30, 100, 20), (60, 50, 40)],
)
def test_dropped_frames_of_a_live_scan(fps, work_ms, processed):
    clock = Clock()
    scene = run_scene(lambda: clock.pass_(work_ms / 1e3), fps, 2.0, clock, clock.pass_)
    assert scene["frames"] == 2 * fps
    # One frame more or less: whether the last one is reached depends on where the busy time ends.
    assert abs(scene["processed"] - processed) <= 1
    assert scene["dropped"] == scene["frames"] - scene["processed"]
    assert scene["delay_p50_ms"] >= work_ms - 1e-6
    assert scene["delay_p95_ms"] <= work_ms + 1e3 / fps + 1e-6


def timing(rounds, batch=1):
    return Timing({"batch": batch, "backend": "x"}, rounds)


def test_ratio_is_the_median_over_rounds_whatever_one_busy_round_says():
    slow = timing([[40.0] * 3, [400.0] * 3, [44.0] * 3])
    fast = timing([[10.0] * 3, [10.0] * 3, [11.0] * 3])
    assert speed_ratio(slow, fast).median == pytest.approx(4.0)
    assert speed_ratio(slow, timing([[40.0] * 3, [40.0] * 3, [44.0] * 3], batch=4)).median == pytest.approx(
        4.0
    )


def test_percentiles_and_matmul_rate():
    numbers = timing([list(np.arange(1.0, 102.0))], batch=2).percentiles()
    assert (numbers["p50_ms"], numbers["p90_ms"], numbers["p99_ms"]) == (51.0, 91.0, 100.0)
    assert numbers["images_per_s"] == pytest.approx(2 / 0.051)
    assert matmul_gflops(1000.0) == pytest.approx(2 * 1536**3 / 1e9)


def test_a_backend_is_held_against_the_products_of_its_own_arithmetic():
    peaks = {"float32": 100.0, "int8": 400.0}
    found = {
        name: share_of_peak(name, 40.0, 2.0, peaks)
        for name in ("onnxruntime", "openvino-int8", "openvino-bf16")
    }
    assert found["onnxruntime"] == {"arithmetic": "float32", "share_of_matmul_peak": pytest.approx(1.0)}
    assert found["openvino-int8"] == {"arithmetic": "int8", "share_of_matmul_peak": pytest.approx(0.25)}
    assert found["openvino-bf16"] == found["onnxruntime"], "a product that could not be timed is no limit"


def test_matrix_products_of_all_arithmetics_run_here():
    timings = time_interleaved({**matmul_specs(1)}, rounds=1, repeats=1)
    assert {timing.error for timing in timings.values()} == {""}
    assert set(matmul_peaks(timings)) == {"float32", "bfloat16", "int8"}


@pytest.fixture
def budgets():
    return read_budgets(BUDGETS)


def test_budgets_are_ratios_and_absolute_only_on_the_named_device(budgets):
    verdicts = check_budgets(budgets, {"onnxruntime": 1.2}, {"coreml-ane": 2.0}, "Intel Xeon", [])
    status = {v.budget.split(":")[0]: v.status for v in verdicts}
    assert status["onnxruntime"] == OVER
    assert status["openvino"] == NOT_APPLICABLE
    assert status["coreml-ane on iPhone 16 Pro"] == NOT_APPLICABLE
    assert "onnxruntime: at least 1.5 times torch-eager, measured 1.2" in over_budget(verdicts)
    on_phone = check_budgets(budgets, {"onnxruntime": 3.2}, {"coreml-ane": 2.0}, "iPhone 16 Pro", [])
    assert "coreml-ane on iPhone 16 Pro: at most 1.6 ms, measured 2" in over_budget(on_phone)
    good = check_budgets(budgets, {"onnxruntime": 3.2}, {"coreml-ane": 1.5}, "iPhone 16 Pro", [])
    assert over_budget(good) == ""
    assert next(v for v in good if v.budget.startswith("onnxruntime")).note == "reach target 3: met"


def test_bfloat16_that_is_slower_than_float32_need_be_is_over_budget(budgets):
    verdicts = check_budgets(budgets, {"openvino": 1.6, "openvino-bf16": 1.4}, {}, "x", [])
    assert "openvino-bf16: at least 2 times torch-eager, measured 1.4" in over_budget(verdicts)


def test_an_installed_backend_that_breaks_is_a_failure(budgets):
    errors = {"openvino": "openvino: RuntimeError: no plugin", "coreml-ane": "coreml-ane: died"}
    verdicts = check_budgets(budgets, {"onnxruntime": 3.2}, {}, "iPhone 16 Pro", [], errors=errors)
    assert "openvino: at least 1.5 times torch-eager: openvino: RuntimeError: no plugin" in over_budget(
        verdicts
    )
    assert "coreml-ane on iPhone 16 Pro: at most 1.6 ms: coreml-ane: died" in over_budget(verdicts)
    absent = check_budgets(budgets, {"onnxruntime": 3.2}, {}, "x", [], {"openvino": "is not installed"})
    assert over_budget(absent) == ""


def test_a_longer_name_is_another_device(budgets):
    for name in ("iPhone 16 Pro Max", "iPhone 16"):
        assert over_budget(check_budgets(budgets, {}, {"coreml-ane": 2.0}, name, [])) == ""
    assert over_budget(check_budgets(budgets, {}, {"coreml-ane": 2.0}, "iphone 16 pro ", [])) != ""


def test_a_missed_reach_says_what_holds_it_back(budgets):
    rows = {
        "onnx-int8": {"share_of_matmul_peak": 0.9, "arithmetic": "int8"},
        "onnxruntime": {"share_of_matmul_peak": 0.5, "arithmetic": "float32"},
        "openvino": {"error": "broken"},
    }
    reasons = what_holds_back(rows, ["avx2"])
    assert reasons["onnx-int8"].endswith("int8 matmul peak, and the processor has no int8 dot product (VNNI)")
    assert "VNNI" not in what_holds_back(rows, ["avx2", "avx512_vnni"])["onnx-int8"]
    assert set(reasons) == {"onnx-int8", "onnxruntime"}
    absent = {"openvino-bf16": "this processor has no bfloat16 arithmetic"}
    verdicts = check_budgets(budgets, {"onnxruntime": 2.0}, {}, "x", [], reasons | absent)
    notes = {v.budget.split(":")[0]: v.note for v in verdicts}
    assert (
        notes["onnxruntime"] == "reach target 3: missed; it runs at 50% of this machine's float32 matmul peak"
    )
    assert notes["openvino-bf16"] == "this processor has no bfloat16 arithmetic"


def test_an_attached_iphone_is_held_against_its_budget(budgets):
    here = check_budgets(budgets, {}, {}, "Mac", [])
    row = {"device": "iPhone 16 Pro", "backend": "coreml-ane", "p50_ms": 1.8}
    found = with_phone(here, budgets, {"status": "ok", "rows": [{**row, "device": MAC, "p50_ms": 0.5}, row]})
    assert "coreml-ane on iPhone 16 Pro: at most 1.6 ms, measured 1.8" in over_budget(found)
    assert len(found) == len(here)
    assert with_phone(here, budgets, {"status": "NOT RUN", "rows": []}) == here
    other = with_phone(here, budgets, {"status": "ok", "rows": [{**row, "device": "iPhone 12"}]})
    assert over_budget(other) == ""


def test_dropped_frames_can_have_a_budget(budgets):
    budgets["scene"]["dropped_share_at_most"] = {30: 0.1}
    scene = {"encoder": "a", "frames_per_second": 30.0, "frames": 60, "processed": 40, "dropped": 20}
    broken = {"encoder": "b", "frames_per_second": 30.0, "error": "it died"}
    found = over_budget(check_budgets(budgets, {}, {}, "x", [scene, broken]))
    assert "live scan at 30 frames/s with a: at most 10% dropped, measured 0.333" in found
    assert "live scan at 30 frames/s with b: at most 10% dropped: it died" in found


def test_a_backend_that_dies_in_the_middle_is_an_error_and_others_go_on(monkeypatch):
    class Dying:
        load_ms = first_call_ms = cold_start_ms = peak_mb = 1.0

        def __init__(self, spec):
            self.left = spec["lives"]

        def time(self, repeats):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("x: its process ended without an answer")
            return [1.0] * repeats

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("export.latency.interleave.Worker", Dying)
    timings = time_interleaved({"a": {"lives": 9}, "b": {"lives": 1}}, rounds=3, repeats=2)
    assert (timings["b"].error, timings["b"].rounds) == ("x: its process ended without an answer", [])
    assert [len(times) for times in timings["a"].rounds] == [2, 2, 2]


def test_a_worker_whose_process_was_killed_says_so():
    with Worker({"backend": "matmul", "threads": 1, "batch": 1, "arithmetic": "float32"}) as worker:
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(RuntimeError, match="matmul: its process ended without an answer"):
            worker.time(repeats=1)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="/proc shows a process's environment")
def test_a_worker_does_not_see_the_makefiles_allocator(monkeypatch):
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text()
    names = re.findall(r"^export (MALLOC_\w+)", makefile, flags=re.MULTILINE)
    assert len(names) == 2
    for name in names:
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with Worker({"backend": "matmul", "threads": 1, "batch": 1, "arithmetic": "float32"}) as worker:
        seen = Path(f"/proc/{worker._process.pid}/environ").read_text().split("\0")
    assert "OMP_NUM_THREADS=1" in seen
    assert not [entry for entry in seen if entry.split("=")[0] in names]


def test_a_worker_that_cannot_load_reports_why_and_others_go_on():
    with pytest.raises(RuntimeError, match="no backend 'nonsense'"):
        Worker({"backend": "nonsense"})


class OneAttention(torch.nn.Module):
    """Four patches of 8 x 8 pixels, and one layer of attention with two heads of four channels among them."""

    preprocessing = SimpleNamespace(image_size=16)

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 8, stride=8)
        self.projection = torch.nn.Linear(8, 24)

    def encode_image(self, image):
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        queries, keys, values = self.projection(tokens).reshape(1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values).mean(dim=(1, 2))


def test_image_cost_counts_attention_by_hand():
    cost = image_cost(OneAttention().eval())
    patches, projection = 4 * 8 * (3 * 8 * 8), 4 * 8 * 24
    similarities = mixtures = 2 * (4 * 4) * 4  # heads, pairs of tokens, channels of a head
    assert cost["gmacs"] * 1e9 == pytest.approx(patches + projection + similarities + mixtures)
    assert cost["parameters_m"] * 1e6 == pytest.approx((3 * 64 + 1) * 8 + (8 + 1) * 24)


def test_image_cost_counts_one_convolution_by_hand(student):
    cost = image_cost(fused_copy(student))
    towers = fused_copy(student)
    expected = sum(p.numel() for p in towers.trunk.parameters()) + towers.image_projection.weight.numel()
    assert cost["parameters_m"] == pytest.approx(expected / 1e6)
    macs = []

    def count(module, inputs, output):
        macs.append(output[0].numel() * module.weight[0].numel())

    hooks = [m.register_forward_hook(count) for m in towers.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        towers.encode_image(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    assert cost["gmacs"] * 1e9 == pytest.approx(sum(macs), rel=0.1)  # convolutions are nearly all of it


def record():
    row = {
        "p50_ms": 10.0, "p90_ms": 11.0, "p95_ms": 12.0, "p99_ms": 15.0, "images_per_s": 100.0,
        "cold_start_ms": 900.0, "load_ms": 500.0, "first_call_ms": 30.0, "peak_mb": 300.0,
        "calls": 90, "share_of_matmul_peak": 0.5, "arithmetic": "float32",
        "ratio": {"median": 3.1, "low": 3.0, "high": 3.2},
    }  # fmt: skip
    scene = {"encoder": "onnxruntime", "frames_per_second": 30.0, "frames": 60, "processed": 58, "dropped": 2}
    drift = {"seconds": 3, "calls": 9, "first_fifth_p50_ms": 10, "last_fifth_p50_ms": 11, "drift": 0.1}
    return {
        "machine": {
            "device": "A CPU",
            "cores": 2,
            "threads": 2,
            "matmul_gflops": {"float32": 100.0},
            "load_average": 9.0,
        },
        "model": {"parameters_m": 11.4, "gmacs": 2.4, "side": 256},
        "yardstick": "torch-eager",
        "backends": {
            "torch-eager": {**row, "p50_ms": 31.0},
            "onnxruntime": row,
            "openvino": {"error": "broken"},
        },
        "absent": {"coreml-ane": "Core ML predicts on macOS only"},
        "stages": {"preprocess": row},
        "throughput": [{"threads": t, "batch": b, **row} for t in (1, 2) for b in (1, 4)],
        "sustained": [{"encoder": "onnxruntime", **drift}, {"encoder": "coreml-ane", "error": "it died"}],
        "scenes": [{**scene, "delay_p50_ms": 12.0, "delay_p95_ms": 20.0}],
        "files": {"onnx-fp32": 45_600_000, "golden": 10},
        "coreml_stopwatch": {
            "status": "ok",
            "rows": [
                {
                    "device": "iPhone 16 Pro",
                    "backend": "coreml-ane",
                    "load_ms": 80.0,
                    "p50_ms": 1.43,
                    "p90_ms": 1.6,
                    "p99_ms": 2.0,
                }
            ],
        },
        "neural_engine": {"status": "NOT RUN", "reason": "MLComputePlan needs macOS"},
        "verdicts": [{"budget": "onnxruntime: at least 5", "figure": 3.1, "status": OVER, "note": ""}],
    }


def test_report_says_over_budget_not_run_busy_and_before():
    before = record()
    before["backends"]["onnxruntime"]["ratio"]["median"] = 2.9
    text = markdown(record(), before)
    assert "**OVER BUDGET**" in text
    assert "NOT RUN: coreml-ane (Core ML predicts on macOS only)" in text
    assert "The machine was busy (load 9.0 on 2 cores)" in text
    assert "| 30 frames/s, onnxruntime | 58 of 60 | 2 |" in text
    assert "- coreml-ane without a break: it died" in text
    line = next(line for line in text.splitlines() if line.startswith("| onnxruntime | 10"))
    assert line.endswith("| 2.90 |")
    assert "| openvino | broken |" in text
    assert "MB: onnx-fp32 45.6." in text
    assert "| iPhone 16 Pro, coreml-ane | 1.43 | 1.60 | 2.00 | 80.00 |" in text


def test_plot_is_drawn(tmp_path):
    draw(record(), tmp_path / "latency.png")
    image = imread(tmp_path / "latency.png")
    assert image.shape[0] > 400
    assert image[..., :3].std() > 0.05


def test_backends_agree_with_a_stopwatch(exported):
    spec = {"threads": 1, "batch": 1, "side": 64, "path": str(exported.artifact("onnx-fp32"))}
    timings = time_interleaved(
        {"onnxruntime": {"backend": "onnxruntime", **spec}, "absent": {"backend": "nonsense", **spec}}, 3, 2
    )
    assert [len(times) for times in timings["onnxruntime"].rounds] == [2, 2, 2]
    assert 0 < min(timings["onnxruntime"].calls_ms) < 1e3 * 60
    assert timings["onnxruntime"].peak_mb > 10
    assert "nonsense" in timings["absent"].error


def test_the_timed_way_from_frame_to_answers_is_the_real_one(exported):
    spec = {"threads": 1, "path": str(exported.artifact("onnx-fp32")), "folder": str(exported.folder)}
    read = frame_to_answers({**spec, "encoder": "onnxruntime"})
    folder = exported.folder / "golden"
    for row in json.loads((folder / "golden.json").read_text())["rows"]:
        frame, square = (
            np.asarray(Image.open(folder / row[name]).convert("RGB")) for name in ("frame", "input")
        )
        convert = to_square(exported.preprocessing)
        pixels = lay_out(convert(frame))
        np.testing.assert_array_equal(pixels, square.transpose(2, 0, 1)[None])
        planes = read(frame)["planes"]
        np.testing.assert_allclose(planes, list(row["planes"].values()), atol=1e-3)
        np.testing.assert_array_equal(lay_out(convert(frame[..., 0]))[0, 2], pixels[0, 0])


def test_a_cold_start_ends_with_the_first_answer(monkeypatch):
    answers = iter([{"load_ms": 1.0, "first_call_ms": 2.0}, {"warm": True}])
    clock = Clock()

    def answer(self):
        clock.pass_(3.0)
        return next(answers)

    monkeypatch.setattr(Worker, "_answer", answer)
    monkeypatch.setattr("export.latency.worker.time.perf_counter", clock)
    monkeypatch.setattr("export.latency.worker.subprocess.Popen", lambda *_, **__: None)
    worker = Worker({"backend": "x"})
    assert worker.cold_start_ms == pytest.approx(3000)
    assert next(answers, None) is None, "the warm-up is waited for"


@pytest.mark.slow
def test_the_whole_command_on_an_export(exported, tmp_path, capsys):
    budgets = yaml.safe_load(BUDGETS.read_text())
    budgets["ratios"] = {"onnxruntime": {"at_least": 0.01, "reach": 3.0}}
    path = tmp_path / "budgets.yaml"
    path.write_text(yaml.safe_dump(budgets))
    arguments = [str(exported.folder), "--ci", "--budgets", str(path), "--out", str(tmp_path / "out")]
    run(arguments)
    record = json.loads((tmp_path / "out" / "latency.json").read_text())
    assert {"torch-eager", "torch-fused", "onnxruntime"} <= set(record["backends"])
    live = set(record["backends"]) & {"coreml-all", "coreml-ane"}
    assert {"preprocess", "heads", "end-to-end"} | {f"end-to-end, {name}" for name in live} == set(
        record["stages"]
    )
    assert [scene["frames"] for scene in record["scenes"]] == [60, 120] * (1 + len(live))
    assert "## Latency" in capsys.readouterr().out
    budgets["ratios"]["onnxruntime"]["at_least"] = 1e6
    path.write_text(yaml.safe_dump(budgets))
    with pytest.raises(ValueError, match="onnxruntime: at least 1e"):
        run([*arguments, "--baseline", str(Path(tmp_path / "out" / "latency.json"))])
