"""Core ML packages, evaluated by an oracle in PyTorch, and their inspection."""

import re

import numpy as np
import pytest
import torch

from export.graphs.contract import METADATA_DIGEST
from export.graphs.coreml_inspection import inspect_package
from export.graphs.coreml_package import Compression, Package, compress_package, write_package
from export.graphs.onnx_graph import quiet, weight_count
from export.graphs.pixel_graph import PixelEncoder
from models import fused_copy
from tests.export.graphs.mil_reference import MilReference
from tests.test_contributing import PAGE


@pytest.fixture(scope="module")
def float32_package(student, tmp_path_factory):
    path = tmp_path_factory.mktemp("coreml") / "encoder.mlpackage"
    module = PixelEncoder(fused_copy(student)).eval()
    write_package(module, path, Package(64, 32, half=False), {METADATA_DIGEST: "d"})
    return path


def test_the_reference_computes_what_torch_computes(float32_package, student):
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        expected = PixelEncoder(student).eval()(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(
        MilReference(float32_package)(pixels), expected, atol=5e-5
    )  # sums in another order


@pytest.mark.parametrize("name", ["coreml-fp16", "coreml-gray", "coreml-int8", "coreml-planes"])
def test_exported_packages_give_the_golden_answers(exported, golden, name):
    entry, (rows, frames) = exported.manifest["artifacts"][name], golden
    gray = (frames == frames[:, :1]).all(axis=(1, 2, 3))
    assert gray.any()
    found = MilReference(exported.artifact(name))(frames[gray][:, :1] if name == "coreml-gray" else frames)
    if name == "coreml-planes":
        expected = np.array([list(row["planes"].values()) for row in rows])
        assert np.abs(found - expected).max() <= entry["on_device"]["difference_max"]
        return
    expected = np.array([row["embedding"] for row in rows])[gray if name == "coreml-gray" else slice(None)]
    cosine = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1)
    assert cosine.min() >= entry["on_device"]["cosine_min"]


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


def test_the_recipe_of_a_variant_makes_smaller_weights(exported, tmp_path):
    """CONTRIBUTING.md adds one with one line."""
    (added,) = re.findall(r'`"palette4": (Compression\([^`]*\))`', PAGE)
    source = exported.folder / "image_encoder.mlpackage"
    compress_package(source, tmp_path / "small.mlpackage", eval(added, {"Compression": Compression}))
    whole, small = (
        sum(file.stat().st_size for file in folder.rglob("weight.bin")) for folder in (source, tmp_path)
    )
    assert 0.2 * whole < small < 0.6 * whole


def test_weights_shrink_as_promised(exported):
    """Bytes of the weights' file by parameter: 2.05 and 1.19 here; the rest of a package does not shrink."""
    parameters = weight_count(exported.artifact("onnx-fp32"))
    size = {
        name: exported.manifest["artifacts"][name]["inspection"]["weight_bytes"] / parameters
        for name in ("coreml-fp16", "coreml-int8")
    }
    assert 2 <= size["coreml-fp16"] < 2.3  # each tensor begins at a multiple of 64 bytes
    assert 1 <= size["coreml-int8"] < 1.6  # coremltools leaves tensors of less than 2048 numbers in float16


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"side": 96}, "inputs"),
        ({"dim": 33}, "outputs"),
        ({"digest": "e"}, "metadata"),
        ({"labels": ("a",)}, "labels"),
        ({"labels": ("a",)}, "outputs"),
        ({"weight_bytes": 10_000_000}, "weights"),
    ],
)
def test_inspection_names_what_does_not_fit(float32_package, change, problem):
    def found(digest="d", weight_bytes=None, **package):
        given = Package(**{"side": 64, "dim": 32, **package})
        return inspect_package(float32_package, given, digest, weight_bytes)["problems"]

    assert found() == []
    assert any(problem in line for line in found(**change))


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
    """Write a package, and return the converters' warnings."""
    warnings = []
    with quiet(warnings):
        write_package(module.eval(), path, Package(16, 2, half=False), {})
    return warnings


def test_tracing_is_the_recorded_fallback_of_the_exporter(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no export\ntoday")

    monkeypatch.setattr(torch.export, "export", broken)
    (line,) = written(Tiny(lambda maps: maps.mean(dim=(2, 3))), tmp_path / "a.mlpackage")
    assert line.endswith("a.mlpackage: torch.export failed, traced instead: RuntimeError: no export today")


def test_what_is_exported_but_not_converted_is_traced(tmp_path):
    module, path = Tiny(likeness).eval(), tmp_path / "a.mlpackage"
    torch.export.export(module, (torch.rand(1, 3, 16, 16),))  # this far it comes
    warnings = written(module, path)
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
