"""What a latency run does on a Mac, with Core ML simulated: live scans, smaller packages, tools that break."""

import json
import platform
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from experiments.latency import BUDGETS
from export.latency.backends import available, frame_to_answers
from export.latency.budget_file import read_budgets, settle_protocol
from export.latency.live import play
from export.latency.neural_engine import neural_engine_share
from export.latency.specs import backend_specs, stage_specs
from export.manifest import Export
from export.onnx_graph import OnnxRunner


@pytest.fixture
def mac(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")


@pytest.fixture
def with_palettes(exported):
    """The export with smaller Core ML packages beside the int8 one, by name alone."""
    artifacts = exported.manifest["artifacts"]
    small = {f"coreml-palette{bits}": artifacts["coreml-int8"] for bits in (8, 6)}
    return Export(exported.folder, {**exported.manifest, "artifacts": artifacts | small})


def test_the_compiled_model_outlives_its_reading(mac, monkeypatch):
    alive = []

    class Model:
        def __init__(self, path):
            alive.append(self)

        def get_compiled_model_path(self):
            return "compiled"

        def __del__(self):
            gone.append(True)

    gone = []
    engine = type("Engine", (), {})
    block = SimpleNamespace(
        operations=[SimpleNamespace(operator_name="conv"), SimpleNamespace(operator_name="x")]
    )
    program = SimpleNamespace(functions={"main": SimpleNamespace(block=block)})

    class Plan:
        model_structure = SimpleNamespace(program=program)

        @staticmethod
        def load_from_path(**_):
            alive.clear()
            assert not gone
            return Plan()

        def get_compute_device_usage_for_mlprogram_operation(self, operation):
            device = engine() if operation.operator_name == "conv" else object()
            return SimpleNamespace(preferred_compute_device=device)

    monkeypatch.setattr("coremltools.models.MLModel", Model)
    monkeypatch.setattr("coremltools.models.compute_device.MLNeuralEngineComputeDevice", engine)
    monkeypatch.setattr("coremltools.models.compute_plan.MLComputePlan", Plan)
    assert neural_engine_share(Path("x.mlpackage"))["share"] == 0.5


def test_compute_plans_that_break_are_not_run_with_their_message(mac, monkeypatch):
    def too_old(path):
        raise Exception("MLComputePlan is only available\non macOS 14.4")

    monkeypatch.setattr("coremltools.models.MLModel", too_old)
    found = neural_engine_share(Path("x.mlpackage"))
    assert found == {
        "status": "NOT RUN",
        "reason": "MLComputePlan: Exception: MLComputePlan is only available on macOS 14.4",
    }
    assert neural_engine_share(None)["status"] == "NOT RUN"


def test_smaller_packages_are_timed_with_all_compute_units(mac, with_palettes):
    specs, absent = backend_specs(with_palettes, threads=2)
    for name in ("coreml-palette8", "coreml-palette6", "coreml-int8"):
        assert specs[name]["backend"] == "coreml-all"
        assert specs[name]["path"].endswith("image_encoder_int8.mlpackage")
    assert specs["coreml-all"]["path"].endswith("image_encoder.mlpackage")
    assert "coreml-int8" not in absent
    del with_palettes.manifest["artifacts"]["coreml-palette6"]
    assert backend_specs(with_palettes, threads=2)[1]["coreml-palette6"] == "not in this export"


def test_core_ml_is_absent_elsewhere(with_palettes):
    if platform.system() == "Darwin":
        pytest.skip("this is a Mac")
    specs, absent = backend_specs(with_palettes, threads=2)
    assert absent["coreml-palette8"] == absent["coreml-ane"] == "Core ML predicts on macOS only"
    assert available()["coreml-ane"] == "Core ML predicts on macOS only"
    assert set(stage_specs(with_palettes, specs, 64)) == {"preprocess", "heads", "end-to-end"}


def test_scenes_and_drift_are_played_with_core_ml_too(mac, exported, monkeypatch):
    specs, _ = backend_specs(exported, threads=2)
    stages = stage_specs(exported, specs, 64)
    live = ["end-to-end", "end-to-end, coreml-all", "end-to-end, coreml-ane"]
    assert list(stages) == ["preprocess", "heads", *live]
    assert [stages[name]["encoder"] for name in live] == ["onnxruntime", "coreml-all", "coreml-ane"]
    assert [Path(stages[name]["path"]).suffix for name in live] == [".onnx", ".mlpackage", ".mlpackage"]

    class Worker:
        def __init__(self, spec):
            self.name = spec.get("encoder", spec["backend"])
            if spec["backend"] == "coreml-ane":
                raise RuntimeError("coreml-ane: no Neural Engine in a virtual machine")

        def scene(self, rate, seconds):
            if self.name == "coreml-all" and rate == 60:
                raise RuntimeError("end-to-end: its process ended without an answer")
            return {"frames_per_second": rate, "frames": 1}

        def time(self, seconds):
            return [1.0, 1.0, 1.0, 1.0, 2.0]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("export.latency.live.Worker", Worker)
    scenes, drifts = play(stages, specs, settle_protocol(read_budgets(BUDGETS), True))
    told = [(scene["encoder"], scene["frames_per_second"], scene.get("error", "")) for scene in scenes]
    died = "end-to-end: its process ended without an answer"
    assert told == [
        ("onnxruntime", 30, ""), ("onnxruntime", 60, ""), ("coreml-all", 30, ""), ("coreml-all", 60, died),
        ("coreml-ane", 30, ""), ("coreml-ane", 60, ""),
    ]  # fmt: skip
    assert [(drift["encoder"], drift.get("drift")) for drift in drifts] == [
        ("onnxruntime", 1.0), ("coreml-all", 1.0), ("coreml-ane", None)
    ]  # fmt: skip
    assert "no Neural Engine" in drifts[2]["error"]


def test_the_way_through_core_ml_gives_the_golden_answers(mac, exported, monkeypatch):
    onnx = OnnxRunner(exported.artifact("onnx-fp32"))
    asked = []

    class Model:
        def __init__(self, path, compute_units):
            asked.append((Path(path).name, compute_units.name))

        def predict(self, inputs):
            image = inputs["image"]
            assert (image.mode, image.size) == ("RGB", (64, 64))
            pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None]
            return {"embedding": onnx(pixels)}

    monkeypatch.setattr("coremltools.models.MLModel", Model)
    stages = stage_specs(exported, backend_specs(exported, threads=1)[0], 64)
    read = frame_to_answers(stages["end-to-end, coreml-ane"])
    assert asked == [("image_encoder.mlpackage", "CPU_AND_NE")]
    folder = exported.folder / "golden"
    for row in json.loads((folder / "golden.json").read_text())["rows"]:
        frame = np.asarray(Image.open(folder / row["frame"]).convert("L"))
        np.testing.assert_allclose(read(frame)["planes"], list(row["planes"].values()), atol=1e-3)
