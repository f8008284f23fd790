"""The code of docs/deploy.md runs, where it can run here."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"


def blocks(mark):
    return re.findall(rf"<!-- tested{mark} -->\n```\w+\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)


def test_python_from_frame_to_plane_and_age(exported):
    names = {"FOLDER": exported.folder}
    found = blocks("")
    assert len(found) == 2
    for block in found:
        exec(block, names)
    golden = json.loads((exported.folder / "golden" / "golden.json").read_text())["rows"][0]
    assert names["embedding"] @ np.array(golden["embedding"]) > 0.9999
    assert names["label"] == max(golden["planes"], key=golden["planes"].get)
    assert 14 <= names["weeks"] < 39
    rows = json.loads((exported.folder / "golden" / "golden.json").read_text())["rows"]
    assert any("ages" in row for row in rows)


def test_javascript_from_pixels_to_probabilities(exported, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (code,) = blocks(": javascript")
    (tmp_path / "guide.mjs").write_text(code)
    row = json.loads((exported.folder / "golden" / "golden.json").read_text())["rows"][0]
    image = np.asarray(Image.open(exported.folder / "golden" / row["input"]).convert("RGBA"))
    (tmp_path / "run.mjs").write_text(
        "import { readFileSync } from 'fs';\n"
        "import { planar, letterbox, classify, cosine } from './guide.mjs';\n"
        "const { rgba, side, embedding, head, vectors } = JSON.parse(readFileSync('in.json'));\n"
        "console.log(JSON.stringify({ planes: classify(embedding, vectors, head),\n"
        "  pixels: Array.from(planar(rgba, side)), box: letterbox(800, 541),\n"
        "  same: cosine(embedding, embedding) }));\n"
    )
    head, vectors = exported.head("planes")
    content = {"rgba": image.reshape(-1).tolist(), "side": 64, "embedding": row["embedding"], "head": head}
    (tmp_path / "in.json").write_text(json.dumps({**content, "vectors": vectors.reshape(-1).tolist()}))
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["planes"] == pytest.approx(row["planes"], abs=1e-4)
    np.testing.assert_array_equal(np.array(answer["pixels"]), image[..., :3].transpose(2, 0, 1).reshape(-1))
    assert answer["box"] == {"side": 800, "left": 0, "top": 129}
    assert answer["same"] == pytest.approx(1)
