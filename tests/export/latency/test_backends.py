"""Specs of the backends and stages, and the timed paths from a frame to the answers against the golden files."""

import platform
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.graphs.coreml_package import COMPRESSIONS
from export.latency.backends import available, backend_specs, frame_to_answers, smaller, stage_specs
from export.package.manifest import Export
from models import load_student
from models.student.onnx_files import onnx_runner


@pytest.fixture
def with_palettes(exported):
    """The export with smaller Core ML packages beside the int8 one, by name alone."""
    artifacts = exported.manifest["artifacts"]
    small = {f"coreml-palette{bits}": artifacts["coreml-int8"] for bits in (8, 6)}
    return Export(exported.folder, {**exported.manifest, "artifacts": artifacts | small})


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
    assert set(stage_specs(with_palettes, specs)) == {"preprocess", "heads", "end-to-end, onnxruntime"}


def test_the_timed_paths_give_the_golden_answers(mac, exported, golden, monkeypatch):
    onnx = onnx_runner(exported.artifact("onnx-fp32"))
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
    stages = stage_specs(exported, backend_specs(exported, threads=1)[0])
    student, folder = load_student(exported.folder), exported.artifact("golden")
    for name in ("end-to-end, coreml-ane", "end-to-end, onnxruntime"):
        read = frame_to_answers(stages[name], student)
        for row in golden[0]:
            found = read(np.asarray(Image.open(folder / row["frame"]).convert("L")))
            assert {label: found[f"plane_{label}"] for label in row["planes"]} == pytest.approx(
                row["planes"], abs=1e-3
            )
            assert found["ga_spacing_mm"] == 0.3
    assert asked == [("image_encoder.mlpackage", "CPU_AND_NE")]


def test_every_smaller_core_ml_package_can_be_timed():
    assert {f"coreml-{kind}" for kind in COMPRESSIONS} < set(smaller())
