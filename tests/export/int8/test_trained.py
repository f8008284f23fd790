"""The int8 file computes what the student computed when it was trained with int8 in the loop."""

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.graphs.onnx_graph import write_onnx
from export.graphs.pixel_graph import PixelEncoder
from export.int8.onnx_int8 import write_trained_int8
from models import QuantisedStudent
from tests.export.conftest import fastvit


@pytest.fixture(scope="session")
def student():
    """A FastViT of four stages: in two, rounding to int8 changes the embeddings too little to tell it apart."""
    return fastvit([16, 32, 64, 128])


@pytest.fixture(scope="session")
def checkpoint(student, tmp_path_factory):
    """The float student as training leaves it."""
    path = tmp_path_factory.mktemp("float") / "best.ckpt"
    state = {f"student.{name}": value for name, value in student.state_dict().items()}
    own = {"recipe": student.recipe(), "preprocessing": student.preprocessing.to_dict()}
    torch.save({"state_dict": state, "student": own}, path)
    return path


@pytest.fixture(scope="session")
def quantised(checkpoint):
    """It, after a few batches with int8 in the loop."""
    encoder = PixelEncoder(QuantisedStudent(str(checkpoint))).train()
    with torch.no_grad():
        for seed in range(3):
            encoder(pixels(seed))
    return encoder.eval().model


@pytest.fixture(scope="module")
def one_conversion(tmp_path_factory):
    """The float student is converted once: its file is the same whatever the ranges are."""
    kept = tmp_path_factory.mktemp("float32") / "float32.onnx"

    def write(encoder, example, path):
        if not kept.exists():
            write_onnx(encoder, example, kept)
        shutil.copyfile(kept, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.int8.onnx_int8.write_onnx", write)
        yield


@pytest.fixture(scope="module")
def written(quantised, one_conversion, tmp_path_factory):
    """A folder with the file of all layers in int8, True.onnx, and the one without grouped convolutions."""
    folder = tmp_path_factory.mktemp("int8")
    for grouped in (True, False):
        path = folder / f"{grouped}.onnx"
        write_trained_int8(quantised, path, grouped_convolutions=grouped, metadata={"note": "n"})
    return folder


def as_written(path, frames):
    """Run a QDQ file operator by operator. Fused int8 kernels saturate on processors without VNNI."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": frame[None]})[0] for frame in frames])


def pixels(seed, count=4):
    return torch.randint(0, 256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("grouped", [True, False])
def test_the_file_rounds_as_training_did(quantised, written, grouped):
    path = written / f"{grouped}.onnx"
    with torch.no_grad():
        expected = PixelEncoder(quantised).eval()(pixels(9)).numpy()
        plain = PixelEncoder(quantised.float_copy()).eval()(pixels(9)).numpy()
    found = as_written(path, pixels(9).numpy())
    cosine = (found * expected).sum(axis=1).min()
    assert cosine > 0.9999
    if grouped:  # every layer rounds: nearer to the student in training than to the float one
        assert cosine > (found * plain).sum(axis=1).min()
    model = onnx.load(path)
    assert {entry.key: entry.value for entry in model.metadata_props}["note"] == "n"
    int8 = [entry for entry in model.graph.initializer if entry.data_type == onnx.TensorProto.INT8]
    layers = [layer.layer for _, layer in quantised.layers()]
    wanted = [layer for layer in layers if grouped or getattr(layer, "groups", 1) == 1]
    assert sum(np.prod(entry.dims) > 1 for entry in int8) >= len(wanted)


def test_the_scales_in_the_file_are_those_of_training(quantised, written):
    graph = onnx.load(written / "True.onnx").graph
    scales = {
        float(onnx.numpy_helper.to_array(entry))
        for entry in graph.initializer
        if entry.name.endswith("_scale") and not entry.dims
    }
    for name, layer in quantised.layers():
        if layer.output_range is not None:
            step = float(layer.output_range.high - layer.output_range.low) / 255
            assert min(abs(scale / step - 1) for scale in scales) < 1e-5, name


def test_untrained_ranges_are_refused_with_the_layer(checkpoint, one_conversion, tmp_path):
    untrained = QuantisedStudent(str(checkpoint))
    with pytest.raises(ValueError, match=r"range of layer \S+ was never trained"):
        write_trained_int8(untrained, tmp_path / "x.onnx", grouped_convolutions=False, metadata={})
