"""The reader refuses whatever does not fit."""

import copy
import json
import re
import shutil
from dataclasses import replace

import onnx
import pytest
import torch

from export import read_export
from export.graphs.contract import contract_digest, metadata_of, ties_of
from export.graphs.heads import ClassHead, write_heads
from models.files import sha256


def edit(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def other_students(copied, student):
    """Write another student's head into a copy of an export, with hashes of its own."""
    other = copy.deepcopy(student)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    path, prompts = copied / "heads.safetensors", {"a": ["one"], "b": ["two"]}
    write_heads(
        path, {"planes": ClassHead("planes", prompts, torch.eye(2, 32))}, None, ties_of(metadata_of(other))
    )
    return path


def test_a_head_of_another_student_is_refused(copied, student):
    path = other_students(copied, student)
    edit(copied, lambda manifest: manifest["artifacts"]["heads"].update(sha256=sha256(path)))
    with pytest.raises(
        ValueError, match=r"heads\.safetensors: it was made from another student; export again$"
    ):
        read_export(copied)


@pytest.mark.parametrize("name", ["onnx-planes", "onnx-text", "coreml-int8", "heads"])
def test_every_kind_of_artifact_knows_its_student(copied, name):
    edit(copied, lambda manifest: manifest.update(model_sha256="0" * 64))
    manifest = json.loads((copied / "manifest.json").read_text())
    edit(copied, lambda m: m.update(artifacts={name: manifest["artifacts"][name]}))
    with pytest.raises(ValueError, match="made from another student"):
        read_export(copied)


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("{", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ("{}", "format: Field required"),
        ('{"format": 3}', "format: Input should be 2, not 3"),
        ('{"format": 2}', "contract: Field required"),
        (
            '{"format": 2, "contract": {}, "contract_sha256": 3}',
            "contract_sha256: Input should be a valid string",
        ),
        (
            '{"format": 2, "contract": {}, "contract_sha256": "", "model_sha256": "", "source": {}, '
            '"artifacts": {"onnx-fp32": {"file": "x"}}}',
            "artifacts.onnx-fp32.bytes: Field required",
        ),
    ],
)
def test_a_damaged_manifest_is_one_line_with_file_and_key(tmp_path, content, answer):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=rf"manifest\.json: {re.escape(answer)}[^\n]*; export again$"):
        read_export(tmp_path)


def test_a_changed_card_is_refused(copied):
    (copied / "parity.json").write_text("{}")  # finished on a Mac
    read_export(copied)
    (copied / "MODEL_CARD.md").write_text("approved")
    with pytest.raises(ValueError, match=r"MODEL_CARD\.md: its hash"):
        read_export(copied)


def test_a_good_folder_is_read(copied, student):
    assert read_export(copied, student.preprocessing).preprocessing == student.preprocessing


def test_another_preprocessing_is_refused_with_the_differing_key(copied, student):
    other = replace(student.preprocessing, mean=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="made for another preprocessing: mean is"):
        read_export(copied, other)


def test_a_changed_file_is_refused(copied):
    path = copied / "image_encoder.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"image_encoder\.onnx: its hash"):
        read_export(copied)


def test_a_changed_weight_inside_a_package_is_refused(copied):
    path = next((copied / "image_encoder.mlpackage").rglob("weight.bin"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"image_encoder\.mlpackage: its hash"):
        read_export(copied)


def test_an_edited_contract_is_refused(copied):
    edit(copied, lambda manifest: manifest["contract"]["preprocessing"].update(image_size=96))
    with pytest.raises(ValueError, match="contract was edited"):
        read_export(copied)


def test_a_file_exported_under_another_contract_is_refused(copied):
    """Someone copies a file from another export and updates the hash: its own metadata give it away."""
    path = copied / "image_encoder.onnx"
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"sonodistill.contract_sha256": "0" * 64})
    onnx.save(model, path)
    edit(copied, lambda manifest: manifest["artifacts"]["onnx-fp32"].update(sha256=sha256(path)))
    with pytest.raises(ValueError, match="another preprocessing contract"):
        read_export(copied)


def test_a_package_exported_under_another_contract_is_refused(copied):
    path = copied / "image_encoder.mlpackage"
    (file,) = path.rglob("*.mlmodel")
    digest = json.loads((copied / "manifest.json").read_text())["contract_sha256"].encode()
    assert file.read_bytes().count(digest) == 1
    file.write_bytes(file.read_bytes().replace(digest, b"0" * 64))
    edit(copied, lambda manifest: manifest["artifacts"]["coreml-fp16"].update(sha256=sha256(path)))
    with pytest.raises(ValueError, match=r"image_encoder\.mlpackage: it was exported under another"):
        read_export(copied)


def test_a_changed_golden_picture_is_refused(copied):
    (copied / "golden" / ".DS_Store").write_bytes(b"left by a Mac")
    read_export(copied)
    path = copied / "golden" / "input_0.png"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="golden: its hash"):
        read_export(copied)


def test_changed_vectors_are_refused(copied):
    path = copied / "heads.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match=r"heads\.safetensors: its hash"):
        read_export(copied)


def test_missing_parts_are_named(copied, tmp_path):
    shutil.rmtree(copied / "image_encoder.mlpackage")
    with pytest.raises(FileNotFoundError, match=r"image_encoder\.mlpackage"):
        read_export(copied)
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        read_export(tmp_path)


def test_an_unknown_artifact_lists_the_others(exported):
    with pytest.raises(ValueError, match=r"no artifact 'x'.*onnx-fp32"):
        exported.artifact("x")


def test_the_digest_ignores_the_order_of_keys_and_nothing_else():
    assert contract_digest({"a": 1, "b": 2}) == contract_digest({"b": 2, "a": 1})
    assert contract_digest({"a": 1, "b": 2}) != contract_digest({"a": 1, "b": 3})
