"""verify_coreml.py, which finishes the parity ledger on a Mac, with Core ML simulated."""

import ast
import json
import math
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import read_export
from export.parity import verify_coreml
from export.parity.ledger import coreml_rows, read_gates

ROOT = Path(__file__).parents[3]


def test_the_mac_script_needs_nothing_of_ours():
    tree = ast.parse(Path(verify_coreml.__file__).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"coremltools", "numpy", "PIL"}


def test_the_mac_script_runs_on_the_python_that_apple_ships():
    tree = ast.parse(Path(verify_coreml.__file__).read_text(), feature_version=(3, 9))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    keywords = {(ast.unparse(call.func), keyword.arg) for call in calls for keyword in call.keywords}
    assert not keywords & {("zip", "strict"), ("dataclass", "slots"), ("dataclass", "kw_only")}
    assert any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)


@pytest.mark.parametrize(
    "place", ["export/parity/verify_coreml.py", "docs/deploy.md", ".github/workflows/ci.yml"]
)
def test_everywhere_the_mac_script_gets_the_same_packages(place):
    text = (ROOT / place).read_text()
    assert re.findall(r"python3 -m pip install (.*)", text)[0] == verify_coreml.PINS
    assert "python -m pip install" not in text


def fake_coremltools(folder, tilt, broken=(), overflows=None):
    """Return a module that answers from the golden file; `tilt` is added to every embedding's first element.

    The frame of the number `overflows` has NaN.
    """
    rows = json.loads((folder / "golden" / "golden.json").read_text())["rows"]
    by_bytes = {}
    for row in rows:
        image = Image.open(folder / "golden" / row["input"]).convert("RGB")
        by_bytes[image.tobytes()] = row
        by_bytes[image.split()[0].tobytes()] = row

    class Model:
        def __init__(self, path, compute_units):
            module.units.append(compute_units)
            if Path(path).name in broken:
                raise Exception("Error compiling model:\n'too new for this macOS'")
            self.head = "planes" if "planes_classifier" in path else None

        def predict(self, inputs):
            row = by_bytes[inputs["image"].tobytes()]
            if overflows is not None and row is rows[overflows]:
                return {
                    "label_probs": dict.fromkeys(row["planes"], math.nan),
                    "embedding": np.full((1, len(row["embedding"])), math.nan),
                }
            if self.head:
                return {"label": "x", "label_probs": row[self.head]}
            vector = np.array(row["embedding"]) + tilt * np.eye(1, len(row["embedding"]))[0]
            return {"embedding": (vector / np.linalg.norm(vector)).reshape(1, -1)}

    module = types.ModuleType("coremltools")
    module.units = []
    module.models = types.SimpleNamespace(MLModel=Model)
    module.ComputeUnit = types.SimpleNamespace(ALL=0, CPU_ONLY=1)
    return module


@pytest.mark.parametrize(("tilt", "code", "status"), [(0.0, 0, "ok"), (0.5, 1, "FAILED")])
def test_the_mac_script_finishes_the_ledger(copied, monkeypatch, tilt, code, status):
    module = fake_coremltools(copied, tilt)
    monkeypatch.setitem(sys.modules, "coremltools", module)
    monkeypatch.setattr(verify_coreml.platform, "system", lambda: "Darwin")
    assert verify_coreml.main([str(copied), "--units", "CPU_ONLY"]) == code
    assert set(module.units) == {module.ComputeUnit.CPU_ONLY}
    rows = {row["variant"]: row for row in json.loads((copied / "parity.json").read_text())["rows"]}
    assert rows["coreml-fp16"]["status"] == rows["coreml-int8"]["status"] == status
    assert rows["coreml-planes"]["status"] == rows["onnx-fp32"]["status"] == "ok"
    assert rows["coreml-fp16"]["how"].startswith("Core ML, CPU_ONLY, macOS ")
    assert rows["coreml-fp16"]["frames"] == rows["coreml-fp16"]["figures"]["frames"] > 0
    entry = json.loads((copied / "manifest.json").read_text())["artifacts"]["parity"]
    assert entry["bytes"] == (copied / "parity.json").stat().st_size


@pytest.mark.parametrize("frame", [0, 2])
def test_a_frame_that_overflows_fails_every_package(copied, monkeypatch, frame):
    monkeypatch.setitem(sys.modules, "coremltools", fake_coremltools(copied, 0.0, overflows=frame))
    monkeypatch.setattr(verify_coreml.platform, "system", lambda: "Darwin")
    assert verify_coreml.main([str(copied)]) == 1
    content = json.loads((copied / "parity.json").read_text(), parse_constant=pytest.fail)  # no NaN
    rows = {row["variant"]: row for row in content["rows"]}
    assert rows["coreml-fp16"]["status"] == rows["coreml-planes"]["status"] == "FAILED"
    assert rows["coreml-fp16"]["figures"]["cosine_min"] is None
    assert rows["coreml-planes"]["figures"]["difference_max"] is None


def test_an_export_without_core_ml_is_told_so(copied, on_a_mac, capsys):
    def without_core_ml(artifacts):
        for name in [name for name, entry in artifacts.items() if entry["kind"] == "coreml"]:
            del artifacts[name]

    edit(copied, without_core_ml)
    assert on_a_mac() == 2
    assert capsys.readouterr().out.startswith("NOT RUN: this export has no Core ML package; export again")


def edit(folder, change):
    """Change the manifest and seal it again, as an export with other contents would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest["artifacts"])
    path.write_text(json.dumps({**manifest, "manifest_sha256": verify_coreml.sealed(manifest)}))


def device_statuses(folder):
    rows = json.loads((folder / "parity.json").read_text())["rows"]
    return {
        row["variant"]: (row["status"], row["note"]) for row in rows if row["variant"].startswith("coreml")
    }


@pytest.fixture
def on_a_mac(copied, monkeypatch):
    """The script's command on a simulated Mac, with packages that Core ML cannot load."""

    refused = []
    monkeypatch.setitem(sys.modules, "coremltools", fake_coremltools(copied, 0.0, refused))
    monkeypatch.setattr(verify_coreml.platform, "system", lambda: "Darwin")

    def run(*broken):
        refused.extend(broken)
        return verify_coreml.main([str(copied), "--units", "CPU_ONLY"])

    return run


def test_a_package_that_core_ml_cannot_load_fails_alone_with_its_message(copied, on_a_mac):
    assert on_a_mac("image_encoder.mlpackage") == 1
    found = device_statuses(copied)
    wanted = "Core ML did not run it: Exception: Error compiling model: 'too new for this macOS'"
    assert found.pop("coreml-fp16") == ("FAILED", wanted)
    assert found
    assert {status for status, _ in found.values()} == {"ok"}
    read_export(copied)  # the script seals the folder again


def test_the_rows_of_a_run_that_is_broken_off_stay(copied, on_a_mac, monkeypatch):
    first, verify = [], verify_coreml.verify

    def broken_off(entry, *given):
        if first:
            raise KeyboardInterrupt
        first.append(entry["name"])
        return verify(entry, *given)

    monkeypatch.setattr(verify_coreml, "verify", broken_off)
    with pytest.raises(KeyboardInterrupt):
        on_a_mac()
    assert [name for name, (status, _) in device_statuses(copied).items() if status == "ok"] == first
    assert not list(copied.glob(".parity*"))


def test_a_row_that_stays_not_run_is_no_success(copied, on_a_mac):
    edit(copied, lambda artifacts: artifacts["coreml-int8"].update(on_device={}))
    assert on_a_mac() == 3
    assert device_statuses(copied)["coreml-int8"] == ("NOT RUN", "its gate has no limit for single frames")


@pytest.mark.parametrize("name", ["manifest.json", "parity.json", "golden/golden.json"])
def test_a_folder_that_is_not_whole_is_named_in_one_line(copied, on_a_mac, capsys, name):
    (copied / name).write_text('{"half')
    assert on_a_mac() == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"NOT RUN: {copied / name}: not as the export wrote it (JSONDecodeError")


@pytest.mark.parametrize("name", ["manifest.json", "heads.safetensors", "golden/frame_0.png"])
def test_a_folder_that_was_edited_is_not_judged(copied, on_a_mac, capsys, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(
        content.replace(b"0.999", b"0.001") if name == "manifest.json" else content + b" "
    )
    assert on_a_mac() == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("; export again")
    assert {status for status, _ in device_statuses(copied).values()} == {"NOT RUN"}


def test_a_replaced_package_fails(copied, on_a_mac):
    (copied / "image_encoder.mlpackage" / "another.bin").write_bytes(b"another")
    assert on_a_mac() == 1
    assert device_statuses(copied)["coreml-fp16"] == ("FAILED", "not the file that the manifest describes")


def test_the_mac_script_takes_its_limits_from_the_export(copied, monkeypatch):
    entries = json.loads((copied / "manifest.json").read_text())["artifacts"]
    assert entries["coreml-fp16"]["on_device"] == {"cosine_min": 0.999}
    assert entries["coreml-int8"]["on_device"] == {"cosine_min": 0.99}
    assert entries["coreml-planes"]["on_device"] == {"difference_max": 0.1}
    limits = {"cosine_min": 0.5, "flip_rate_max": 0.0}
    edit(copied, lambda artifacts: artifacts["coreml-fp16"].update(on_device=limits))
    monkeypatch.setitem(sys.modules, "coremltools", fake_coremltools(copied, 0.5))
    monkeypatch.setattr(verify_coreml.platform, "system", lambda: "Darwin")
    verify_coreml.main([str(copied), "--units", "CPU_ONLY"])
    assert re.search(r"cosine .* limit 0\.5; flip_rate", device_statuses(copied)["coreml-fp16"][1])


def test_the_mac_script_says_not_run_elsewhere(copied, capsys, monkeypatch):
    monkeypatch.setattr(verify_coreml.platform, "system", lambda: "Linux")
    before = (copied / "parity.json").read_text()
    assert verify_coreml.main([str(copied)]) == 2
    assert "NOT RUN" in capsys.readouterr().out
    assert (copied / "parity.json").read_text() == before


def package(gate, problems=(), unknown=()):
    inspection = {"problems": list(problems), "not_on_neural_engine": list(unknown)}
    return {"kind": "coreml", "gate": gate, "inspection": inspection}


def test_rows_and_limits_of_packages():
    artifacts = {
        "a": package("float32"),
        "b": package("float16-classifier", unknown=["erf"]),
        "c": package("compressed-package", problems=["weights: 1"]),
        "d": {"kind": "onnx"},
    }
    rows = coreml_rows(artifacts, read_gates(), trained=True)
    assert [(row.variant, row.status) for row in rows] == [
        ("a", "NOT RUN"),
        ("b", "NOT RUN"),
        ("c", "FAILED"),
    ]
    assert rows[1].note.endswith("; not known to run on the Neural Engine: erf")
    assert rows[2].note == "weights: 1"
    assert artifacts["a"]["on_device"] == {"cosine_min": 0.99999, "flip_rate_max": 0.0}
    assert artifacts["b"]["on_device"]["flip_rate_max"] == 0.005
    coreml_rows(artifacts, read_gates(), trained=False)
    assert "flip_rate_max" not in artifacts["a"]["on_device"], "classes of random weights flip by chance"
