"""Core ML packages on Linux: the operator-by-operator reference, the inspection, and the script for a Mac."""

import ast
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from export import variants, verify_coreml
from export.contract import METADATA_DIGEST
from export.coreml_inspection import inspect_package
from export.coreml_package import write_package
from export.coreml_rows import check_packages
from export.mil_operators import OPERATORS
from export.mil_reference import MilReference, NoReferenceError
from export.parity import Row, device_limits, read_gates
from export.pixel_graph import PixelEncoder
from models import fused_copy


@pytest.fixture(scope="module")
def float32_package(student, tmp_path_factory):
    path = tmp_path_factory.mktemp("coreml") / "encoder.mlpackage"
    module = PixelEncoder(fused_copy(student)).eval()
    write_package(module, path, side=64, half=False, metadata={METADATA_DIGEST: "d"}, warnings=[])
    return path


def test_the_reference_computes_what_torch_computes(float32_package, student):
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        expected = PixelEncoder(student).eval()(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(MilReference(float32_package)(pixels), expected, atol=2e-6)


def test_asymmetric_padding_and_transposed_products():
    x = torch.randn(1, 2, 5, 6)
    weight = torch.randn(4, 2, 3, 3)
    values = {
        "x": x, "weight": weight, "strides": [1, 1], "dilations": [1, 1], "groups": 1,
        "pad_type": "custom", "pad": [1, 0, 2, 1],
    }  # fmt: skip
    padded = torch.zeros(1, 2, 6, 9)
    padded[:, :, 1:6, 2:8] = x
    torch.testing.assert_close(OPERATORS["conv"](values), torch.nn.functional.conv2d(padded, weight))
    a, b = torch.randn(2, 3), torch.randn(4, 3)
    torch.testing.assert_close(OPERATORS["matmul"]({"x": a, "y": b, "transpose_y": True}), a @ b.T)
    with pytest.raises(ValueError, match="pad_type"):
        OPERATORS["conv"]({**values, "pad_type": "same"})


def test_inspection_accepts_what_was_exported(exported):
    report = exported.manifest["artifacts"]["coreml-fp16"]["inspection"]
    assert report["problems"] == []
    assert report["specification"] >= 8
    assert report["inputs"] == {"image": "RGB 64 x 64"}
    assert report["outputs"] == {"embedding": "FLOAT32 [1, 32]"}
    assert report["not_on_neural_engine"] == []
    # Only the normalisation of the embedding is worth full precision.
    assert set(report["float32_operators"]) == {"reduce_l2_norm", "maximum", "tile", "real_div"}
    classifier = exported.manifest["artifacts"]["coreml-planes"]["inspection"]
    assert classifier["outputs"] == {"label": "string", "label_probs": "dictionary"}
    gray = exported.manifest["artifacts"]["coreml-gray"]["inspection"]
    assert gray["inputs"] == {"image": "GRAYSCALE 64 x 64"}


def test_weights_shrink_as_promised(exported):
    size = {name: entry["bytes"] for name, entry in exported.manifest["artifacts"].items()}
    assert size["coreml-fp16"] < 0.6 * size["onnx-fp32"]
    assert size["coreml-int8"] < 0.8 * size["coreml-fp16"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"side": 96}, "inputs"),
        ({"dim": 33}, "outputs"),
        ({"digest": "e"}, "metadata"),
        ({"labels": ["a"]}, "labels"),
        ({"labels": ["a"]}, "outputs"),
        ({"weight_bytes": 10_000_000}, "weights"),
    ],
)
def test_inspection_names_what_does_not_fit(float32_package, change, problem):
    wanted = {"side": 64, "gray": False, "dim": 32, "labels": None, "digest": "d"}
    assert inspect_package(float32_package, **wanted).problems == []
    assert any(problem in line for line in inspect_package(float32_package, **{**wanted, **change}).problems)


class Tiny(torch.nn.Module):
    """Two convolution channels of a frame, and something of each."""

    def __init__(self, last):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 2, 3)
        self.last = last

    def forward(self, image):
        return self.last(self.convolution(image / 255))


def likeness(maps):
    """The cosine of every place's two channels with twice themselves and one; then the mean over rows."""
    return torch.nn.functional.cosine_similarity(maps, maps * 2 + 1, dim=1).mean(dim=1)


def enlarged(maps):
    return torch.nn.functional.interpolate(maps, scale_factor=1.7, mode="bicubic").mean(dim=(2, 3))


def written(module, path):
    warnings = []
    return write_package(module.eval(), path, side=16, half=False, metadata={}, warnings=warnings), warnings


def test_tracing_is_the_recorded_fallback_of_the_exporter(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no export\ntoday")

    monkeypatch.setattr(torch.export, "export", broken)
    way, warnings = written(Tiny(lambda maps: maps.mean(dim=(2, 3))), tmp_path / "a.mlpackage")
    assert way == "torch.jit.trace"
    assert "a.mlpackage: torch.export failed, traced instead: RuntimeError: no export today" in warnings


def test_what_is_exported_but_not_converted_is_traced(tmp_path):
    module, path = Tiny(likeness).eval(), tmp_path / "a.mlpackage"
    torch.export.export(module, (torch.rand(1, 3, 16, 16),))  # this far it comes
    way, warnings = written(module, path)
    assert way == "torch.jit.trace"
    assert any("a.mlpackage: torch.export failed, traced instead: ValueError" in line for line in warnings)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        maps = module.convolution(torch.from_numpy(pixels) / 255).numpy()
    other = 2 * maps + 1
    lengths = np.sqrt((maps**2).sum(axis=1) * (other**2).sum(axis=1))
    expected = ((maps * other).sum(axis=1) / lengths).mean(axis=1)
    np.testing.assert_allclose(MilReference(path)(pixels), expected, atol=1e-5)


def test_what_no_way_converts_is_one_line_with_file_and_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"^a\.mlpackage: Core ML cannot be written") as refused:
        written(Tiny(enlarged), tmp_path / "a.mlpackage")
    line = str(refused.value)
    assert "\n" not in line
    assert line.count("NotImplementedError") == 2
    assert line.endswith("leave it out with --skip=coreml")
    assert not (tmp_path / "a.mlpackage").exists()


def test_the_mac_script_needs_nothing_of_ours():
    tree = ast.parse(Path(verify_coreml.__file__).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"coremltools", "PIL"}


def test_the_mac_script_runs_on_the_python_that_apple_ships():
    tree = ast.parse(Path(verify_coreml.__file__).read_text(), feature_version=(3, 9))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    keywords = {(ast.unparse(call.func), keyword.arg) for call in calls for keyword in call.keywords}
    assert not keywords & {("zip", "strict"), ("dataclass", "slots"), ("dataclass", "kw_only")}
    assert any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)


@pytest.mark.parametrize("place", ["export/verify_coreml.py", "docs/deploy.md", ".github/workflows/ci.yml"])
def test_everywhere_the_mac_script_gets_the_same_packages(place):
    text = (Path(variants.__file__).parents[1] / place).read_text()
    assert re.findall(r"python3 -m pip install (.*)", text)[0] == verify_coreml.PINS
    assert "python -m pip install" not in text


def fake_coremltools(folder, tilt, broken=()):
    """A stand-in that answers from the golden file, as a faithful (or tilted) Core ML on a Mac would."""
    rows = json.loads((folder / "golden" / "golden.json").read_text())["rows"]
    by_bytes = {}
    for row in rows:
        image = verify_image(folder / "golden" / row["input"])
        by_bytes[image.tobytes()] = row
        by_bytes[image.split()[0].tobytes()] = row

    class Model:
        def __init__(self, path, compute_units):
            if Path(path).name in broken:
                raise Exception("Error compiling model:\n'too new for this macOS'")
            self.head = "planes" if "planes_classifier" in path else None
            self.own = "coreml-int8" if "_int8" in path else None

        def predict(self, inputs):
            row = by_bytes[inputs["image"].tobytes()]
            if self.head:
                return {"label": "x", "label_probs": row[self.head]}
            vector = (
                np.array(row["packages"][self.own] if self.own else row["embedding"])
                + tilt * np.eye(1, len(row["embedding"]))[0]
            )
            return {"embedding": (vector / np.linalg.norm(vector)).reshape(1, -1)}

    module = types.ModuleType("coremltools")
    module.models = types.SimpleNamespace(MLModel=Model)
    module.ComputeUnit = types.SimpleNamespace(ALL=0, CPU_ONLY=1)
    return module


def verify_image(path):
    from PIL import Image

    return Image.open(path).convert("RGB")


@pytest.mark.parametrize(("tilt", "code", "status"), [(0.0, 0, "ok"), (0.5, 1, "FAILED")])
def test_the_mac_script_finishes_the_ledger(copied, monkeypatch, tilt, code, status):
    monkeypatch.setitem(sys.modules, "coremltools", fake_coremltools(copied, tilt))
    monkeypatch.setattr(verify_coreml.platform, "system", lambda: "Darwin")
    assert verify_coreml.main([str(copied), "--units", "CPU_ONLY"]) == code
    rows = {row["variant"]: row for row in json.loads((copied / "parity.json").read_text())["rows"]}
    assert rows["coreml-fp16-on-device"]["status"] == status
    assert rows["coreml-int8-on-device"]["status"] == status
    assert rows["coreml-planes-on-device"]["status"] == "ok"
    assert rows["onnx-fp32"]["status"] == "ok"


def device_statuses(folder):
    rows = json.loads((folder / "parity.json").read_text())["rows"]
    return {
        row["variant"].removesuffix("-on-device"): (row["status"], row["note"])
        for row in rows
        if row["variant"].endswith("-on-device")
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
    path = copied / "golden" / "golden.json"
    golden = json.loads(path.read_text())
    for row in golden["rows"]:
        row["packages"] = {}
    path.write_text(json.dumps(golden))
    assert on_a_mac() == 3
    assert device_statuses(copied)["coreml-int8"] == ("NOT RUN", "golden.json has no answers of this package")


@pytest.mark.parametrize("name", ["manifest.json", "parity.json", "golden/golden.json"])
def test_a_folder_that_is_not_whole_is_named_in_one_line(copied, on_a_mac, capsys, name):
    (copied / name).write_text('{"half')
    assert on_a_mac() == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"NOT RUN: {copied / name}: not as the export wrote it (JSONDecodeError")


def test_the_model_card_sends_its_reader_to_the_ledger_for_a_devices_verdict(exported):
    lines = (exported.folder / "MODEL_CARD.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| coreml-") and "-on-device" in line]
    assert rows
    assert all("parity.json" in row for row in rows)


def test_the_mac_script_takes_its_limits_from_the_export(copied, monkeypatch):
    path = copied / "manifest.json"
    manifest = json.loads(path.read_text())
    entries = manifest["artifacts"]
    assert entries["coreml-fp16"]["on_device"] == {"cosine_min": 0.999}
    assert entries["coreml-int8"]["on_device"] == {"cosine_min": 0.999}
    assert entries["coreml-planes"]["on_device"] == {"difference_max": 0.1}
    entries["coreml-fp16"]["on_device"] = {"cosine_min": 0.5, "flip_rate_max": 0.0}
    path.write_text(json.dumps(manifest))
    monkeypatch.setitem(sys.modules, "coremltools", fake_coremltools(copied, 0.5))
    monkeypatch.setattr(verify_coreml.platform, "system", lambda: "Darwin")
    verify_coreml.main([str(copied), "--units", "CPU_ONLY"])
    rows = {row["variant"]: row for row in json.loads((copied / "parity.json").read_text())["rows"]}
    assert "cosine" in rows["coreml-fp16-on-device"]["note"]
    assert "limit 0.5; flip_rate" in rows["coreml-fp16-on-device"]["note"]


def test_limits_of_a_device():
    gates = read_gates()
    assert device_limits("float32", gates, trained=True) == {"cosine_min": 0.99999, "flip_rate_max": 0.0}
    assert device_limits("float16-classifier", gates, trained=True)["flip_rate_max"] == 0.005
    assert device_limits("compressed", gates, trained=True) == {"cosine_min": 0.999}
    assert verify_coreml.verdict({"flip_rate": 0.2}, {"flip_rate_max": 0.1})["status"] == "FAILED"
    assert verify_coreml.verdict({"cosine_min": float("nan")}, {"cosine_min": 0.1})["status"] == "FAILED"
    assert verify_coreml.verdict({"flip_rate": 0.2}, {})["status"] == "NOT RUN"


def test_a_package_with_an_operator_that_has_no_reference_is_not_run(student, tmp_path, monkeypatch):
    metadata = {METADATA_DIGEST: "d"}
    bench = variants.Workbench(tmp_path, PixelEncoder(fused_copy(student)).eval(), {}, metadata)
    variants.write_onnx_variants(bench, dynamic_batch=False)
    monkeypatch.delitem(OPERATORS, "gelu")
    skip = ["coreml-fp32", "coreml-gray", "coreml-palette8", "coreml-palette6", "coreml-int8"]
    variants.write_coreml_variants(bench, skip)
    (row,) = bench.not_run
    assert (row.variant, row.status) == ("coreml-fp16", "NOT RUN")
    assert "['gelu']" in row.note
    assert "coreml-fp16" in bench.artifacts
    assert [variant.name for variant in bench.variants] == ["onnx-fp32"]


def test_a_form_of_an_operator_without_a_reference_names_it(float32_package, monkeypatch):
    def other_form(values):
        raise ValueError("conv with pad_type 'same'")

    monkeypatch.setitem(OPERATORS, "conv", other_form)
    with pytest.raises(NoReferenceError, match="operator conv as used: conv with pad_type 'same'"):
        MilReference(float32_package)(np.zeros((1, 3, 64, 64), dtype=np.float32))


def test_what_inspection_finds_reaches_the_ledger():
    found = {"problems": [], "not_on_neural_engine": ["erf"]}
    row, bad = Row("a", "", status="EMULATED", note="n"), Row("b", "", status="EMULATED")
    check_packages(
        {"a": {"inspection": found}, "b": {"inspection": {"problems": ["weights: 1"]}}}, [row, bad]
    )
    assert (row.status, row.note) == ("EMULATED", "n; not known to run on the Neural Engine: erf")
    assert (bad.status, bad.note) == ("FAILED", "weights: 1")


def test_the_mac_script_says_not_run_elsewhere(copied, capsys, monkeypatch):
    monkeypatch.setattr(verify_coreml.platform, "system", lambda: "Linux")
    before = (copied / "parity.json").read_text()
    assert verify_coreml.main([str(copied)]) == 2
    assert "NOT RUN" in capsys.readouterr().out
    assert (copied / "parity.json").read_text() == before
