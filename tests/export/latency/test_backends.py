"""Specs of the backends and stages, and the timed path from a frame to the answers against the golden files."""

import json
import platform
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.graphs.coreml_package import COMPRESSIONS
from export.latency.backends import (
    available,
    backend_specs,
    frame_to_answers,
    smaller,
    stage_specs,
    to_planes,
    to_square,
)
from export.package.manifest import Export
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


def test_the_way_through_core_ml_gives_the_golden_answers(mac, exported, monkeypatch):
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
    read = frame_to_answers(stages["end-to-end, coreml-ane"], exported)
    assert asked == [("image_encoder.mlpackage", "CPU_AND_NE")]
    folder = exported.folder / "golden"
    for row in json.loads((folder / "golden.json").read_text())["rows"]:
        frame = np.asarray(Image.open(folder / row["frame"]).convert("L"))
        np.testing.assert_allclose(read(frame)["planes"], list(row["planes"].values()), atol=1e-3)


def test_the_timed_way_from_frame_to_answers_is_the_real_one(exported):
    spec = {"threads": 1, "path": str(exported.artifact("onnx-fp32")), "folder": str(exported.folder)}
    read = frame_to_answers({**spec, "encoder": "onnxruntime"}, exported)
    folder = exported.folder / "golden"
    for row in json.loads((folder / "golden.json").read_text())["rows"]:
        frame, square = (
            np.asarray(Image.open(folder / row[name]).convert("RGB")) for name in ("frame", "input")
        )
        convert = to_square(exported.preprocessing)
        pixels = to_planes(convert(frame))
        np.testing.assert_array_equal(pixels, square.transpose(2, 0, 1)[None])
        planes = read(frame)["planes"]
        np.testing.assert_allclose(planes, list(row["planes"].values()), atol=1e-3)
        np.testing.assert_array_equal(to_planes(convert(frame[..., 0]))[0, 2], pixels[0, 0])


def test_every_smaller_core_ml_package_can_be_timed():
    assert {f"coreml-{kind}" for kind in COMPRESSIONS} < set(smaller())
