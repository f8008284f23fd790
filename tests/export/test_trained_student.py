"""A phantom student, trained briefly by the command that users run, through the whole export; minutes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments.commands.export import main
from export import read_export
from export.parity.ledger import NOT_RUN, OK, read_gates

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ("num_planes_images=400", "num_hc18_images=120", "num_pair_images=0")


def train(folder):
    """Train the phantom preset's student without a teacher, and return its checkpoint."""
    settings = [f"--data.corpus.{setting}" for setting in CORPUS]
    settings += [f"--data.root={folder / 'phantom'}", "--data.cache=null", "--data.num_workers=0"]
    settings += [
        "--trainer.max_epochs=24",
        "--trainer.check_val_every_n_epoch=24",
        "--score_test_patients=false",
    ]
    command = [sys.executable, "-m", "experiments", "train", "no-kd", "phantom", "--run=brief", *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    done = subprocess.run(
        [*command, "--model.teacher=null"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "outputs" / "no-kd" / "brief" / "checkpoints" / "best.ckpt"


@pytest.mark.slow
def test_a_trained_student_passes_its_gates(tmp_path):
    checkpoint = train(tmp_path)
    gates = read_gates()
    # One frame is several points here, and a brief training leaves many frames on the border between two classes. All
    # other limits are those that ship.
    gates["compressed"]["points_lost_max"] = 25.0
    (tmp_path / "gates.yaml").write_text(yaml.safe_dump(gates))
    main([str(checkpoint), f"--gates={tmp_path / 'gates.yaml'}", "--keep_slow_int8=true"])
    folder = checkpoint.parents[1] / "export"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["source"]["recipe"]["init_args"]["trunk"] == "resnet10t"
    assert manifest["source"]["data"] == "phantom"
    rows = {row["variant"]: row for row in json.loads((folder / "parity.json").read_text())["rows"]}
    for name in ("torch-fused", "onnx-fp32", "onnx-planes", "onnx-subplanes", "onnx-int8"):
        assert rows[name]["status"] == OK, rows[name]
    packages = [name for name, entry in manifest["artifacts"].items() if entry["kind"] == "coreml"]
    assert {"coreml-fp16", "coreml-gray", "coreml-planes", "coreml-palette6", "coreml-int8"} <= set(packages)
    for name in packages:
        assert rows[name]["status"] == NOT_RUN, rows[name]
    assert set(rows["onnx-fp32"]["tasks"]) == {"planes/f1", "subplanes/f1", "hc18/validity"}
    assert rows["onnx-fp32"]["tasks"]["planes/f1"] > 0.4, rows["onnx-fp32"]["tasks"]
    spacings = read_export(folder).head("ages").description["spacings_mm_per_px"]
    assert len(spacings) > 20
    card = (folder / "MODEL_CARD.md").read_text()
    assert "- teacher: none\n- loss: losses." in card
    assert "- training started from: random weights" in card
