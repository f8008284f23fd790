"""The published student's size, with random weights, through everything; minutes."""

import json

import pytest

from experiments.commands.export import main


@pytest.mark.slow
def test_full_size_student(tmp_path):
    arguments = [
        "random:MobileCLIP2-S0",
        "--out",
        str(tmp_path / "export"),
        "--frames=4",
    ]
    data = ["num_planes_images=40", "num_hc18_images=12", "num_pair_images=0"]
    arguments += [f"--data.corpus.{setting}" for setting in data]
    arguments += [f"--data.root={tmp_path / 'phantom'}", "--data.num_workers=0", "--calibration_frames=8"]
    main([*arguments, "--data.hc18_test_share=0.4", "--text_encoder=true", "--dynamic_batch=true"])
    manifest = json.loads((tmp_path / "export" / "manifest.json").read_text())
    sizes = {name: entry["bytes"] / 1e6 for name, entry in manifest["artifacts"].items()}
    assert 44 < sizes["onnx-fp32"] < 48  # 11.4 M parameters
    assert 21 < sizes["coreml-fp16"] < 24
    assert sizes["coreml-palette6"] < 9.5
    rows = {
        row["variant"]: row for row in json.loads((tmp_path / "export" / "parity.json").read_text())["rows"]
    }
    for name in ("torch-fused", "onnx-fp32", "onnx-planes", "onnx-text"):
        assert rows[name]["status"] == "ok", rows[name]
    assert rows["coreml-fp32"]["status"] == "NOT RUN", rows["coreml-fp32"]
