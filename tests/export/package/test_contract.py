"""What the files of an export say about their inputs, their terms and the machine that wrote them."""

import json

import numpy as np
import onnx
import pytest

from datamodules.evaluation.protocol import Protocol
from export.graphs.contract import METADATA_CONTRACT, contract_of, metadata_of, recipe_without_path
from export.graphs.text_artifact import tokenizer_files, write_text_encoder
from export.package.model_card import card_data, write_licences
from export.package.readme import write_readme
from models import Preprocessing, from_checkpoint
from tests.models.encoders.test_transformers_encoder import save


@pytest.mark.parametrize("name", ["onnx-fp32", "onnx-planes", "onnx-resize", "onnx-text"])
def test_an_onnx_file_describes_its_own_input(exported, name):
    model = onnx.load(exported.artifact(name))
    (tensor,) = model.graph.input
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    said, kind = json.loads(metadata[METADATA_CONTRACT])["input"], tensor.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    assert (said["name"], np.dtype(said["dtype"])) == (tensor.name, dtype)
    assert said["shape"] == [axis.dim_value or axis.dim_param for axis in kind.shape.dim]


def test_clips_tokenizer_ships_with_its_licence(exported, tmp_path):
    (tmp_path / "text").mkdir()
    files = tokenizer_files(Preprocessing(64, (0.0,) * 3, (1.0,) * 3, tokenizer="clip"), tmp_path / "text")
    names = [path.relative_to(tmp_path).as_posix() for path in files]
    text = (tmp_path / "text" / "LICENSE-CLIP.txt").read_text()
    assert "Copyright (c) 2021 OpenAI" in text
    assert "The above copyright notice and this permission notice shall be included" in text
    manifest = {**exported.manifest, "protocol": Protocol.load().digest}
    for artifacts, said in ((names, True), ([], False)):
        write_licences(tmp_path / "LICENCES.md", {**manifest, "artifacts": dict.fromkeys(artifacts)})
        assert (
            "OpenAI's CLIP, MIT (text/LICENSE-CLIP.txt)" in (tmp_path / "LICENCES.md").read_text()
        ) == said


def test_an_export_names_the_folder_of_a_transformers_model_without_its_path(tmp_path):
    folder = tmp_path / "home of anna" / "clip"
    folder.mkdir(parents=True)
    save("clip", folder)
    model = from_checkpoint(str(folder)).eval()
    contract, recipe, metadata = (
        contract_of(model.preprocessing),
        recipe_without_path(model),
        metadata_of(model),
    )
    write_text_encoder(model, tmp_path / "text", metadata)
    golden = json.loads((tmp_path / "text" / "text_golden.json").read_text())
    assert contract["preprocessing"]["tokenizer"] == golden["tokenizer"] == "hf:clip"
    assert recipe["init_args"]["folder"] == "clip"
    assert "anna" not in json.dumps([contract, recipe, metadata])
    files = [path for path in (tmp_path / "text").rglob("*") if path.is_file()]
    assert [path.name for path in files if b"anna" in path.read_bytes()] == []
    assert from_checkpoint(str(folder)).recipe()["init_args"]["folder"] == str(folder)


def test_an_export_without_core_ml_promises_none(exported, tmp_path):
    artifacts = exported.manifest["artifacts"]
    for kept, said in (
        (artifacts, True),
        ({k: v for k, v in artifacts.items() if v["kind"] != "coreml"}, False),
    ):
        manifest = {**exported.manifest, "artifacts": kept}
        write_readme(tmp_path / "README.md", manifest, [])
        assert ("coreml" in card_data(manifest, []).tags) == said
        assert (".mlpackage" in (tmp_path / "README.md").read_text()) == said
