"""The reader refuses whatever does not fit."""

import copy
import json
import re
import shutil

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export import read_export
from export.graphs.contract import contract_digest, metadata_of, ties_of
from export.graphs.heads import ClassHead, ShippedAges, write_heads
from models import load_student
from models.files import sha256
from models.student.manifest import Artifact, seal, without_prompts
from models.student.onnx_files import read_heads
from tests.test_fuzz_readers import many

KEPT = ("image_encoder.onnx", "parity.json")


def edit(folder, change):
    """Change the manifest as an attacker would, with a new seal: the checks behind it are tested."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(seal(manifest)))


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
    described = {name: without_prompts(head.description) for name, head in read_heads(path).items()}
    edit(copied, lambda manifest: manifest["artifacts"]["heads"].update(sha256=sha256(path)))
    edit(copied, lambda manifest: manifest.update(heads=described))
    with pytest.raises(
        ValueError, match=r"heads\.safetensors: it was made from another student; export again$"
    ):
        read_export(copied)


@pytest.mark.parametrize(
    ("width", "answer"), [(32, None), (31, "'ages' is for embeddings of 31 numbers, not 32")]
)
def test_an_age_table_of_few_coordinates_is_for_embeddings_of_its_basis_width(copied, width, answer):
    path, export = copied / "heads.safetensors", read_export(copied)
    heads = {
        name: ClassHead(
            name, export.head(name).description["prompts"], torch.tensor(export.head(name).vectors)
        )
        for name in ("planes", "subplanes")
    }
    said, vectors, basis = export.head("ages")
    few, basis = torch.tensor(vectors[..., :4]).half(), torch.tensor(basis[:4, :width])
    ages = ShippedAges(said["prompts"], ("0.30",), few, basis, said["checked_against_full_table"])
    write_heads(path, heads, ages, {key: export.manifest[key] for key in ("contract_sha256", "model_sha256")})
    edit(copied, lambda manifest: manifest["artifacts"]["heads"].update(sha256=sha256(path)))
    if answer is None:
        assert read_export(copied).head("ages").vectors.shape == (1, 175, 4)
        assert load_student(copied).age_vectors(0.3)[2].shape == (175, 32)
        return
    for read in (read_export, load_student):
        with pytest.raises(ValueError, match=answer):
            read(copied)


@pytest.mark.parametrize("name", ["onnx-planes", "onnx-text", "coreml-int8", "heads"])
def test_every_kind_of_artifact_knows_its_student(copied, name):
    edit(copied, lambda manifest: manifest.update(model_sha256="0" * 64))
    manifest = json.loads((copied / "manifest.json").read_text())
    edit(
        copied, lambda m: m.update(artifacts={kept: manifest["artifacts"][kept] for kept in (name, "heads")})
    )
    with pytest.raises(ValueError, match="made from another student"):
        read_export(copied)


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("{", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ("{}", "format: Field required"),
        ('{"format": 2}', "format: Input should be 3, not 2"),
        ('{"format": 3}', "contract: Field required"),
        (
            '{"format": 3, "contract": {"preprocessing": {}}, "contract_sha256": 3}',
            "contract_sha256: Input should be a valid string",
        ),
        (
            '{"format": 3, "contract": {"preprocessing": {}}, "contract_sha256": "", "model_sha256": "", '
            '"embed_dim": 1, "source": {"recipe": {}}, "artifacts": {"onnx-fp32": {"file": "x"}}}',
            "artifacts.onnx-fp32.bytes: Field required",
        ),
    ],
)
def test_a_damaged_manifest_is_one_line_with_file_and_key(tmp_path, content, answer):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=rf"manifest\.json: {re.escape(answer)}[^\n]*; export again$"):
        read_export(tmp_path)


def swap_heads(manifest):
    heads = manifest["heads"]
    heads["planes"], heads["subplanes"] = heads["subplanes"], heads["planes"]


def at_int8(manifest):
    manifest["artifacts"]["onnx-fp32"] = manifest["artifacts"]["onnx-int8"]


@pytest.mark.parametrize(
    ("change", "resealed"),
    [
        (lambda m: m["source"].update(checkpoint="other.ckpt"), None),
        (lambda m: m.update(embed_dim=33), "head '.*' is for embeddings of 32 numbers, not 33"),
        (lambda m: m["artifacts"]["onnx-fp32"].update(output="logits"), "its output is 'embedding', not 'logits'"),
        (lambda m: m["artifacts"]["onnx-fp32"].update(batch=8), "its batch is 1, not 8"),
        (swap_heads, "head 'planes' is not the one"),
        (at_int8, "image_encoder_int8.onnx: its artifact is 'onnx-int8', not 'onnx-fp32'"),
        (lambda m: m["artifacts"]["onnx-fp32"].update(file="../x.onnx"), "'../x.onnx' is not a path inside"),
        (lambda m: m["artifacts"]["onnx-fp32"].update(file="/x.onnx"), "'/x.onnx' is not a path inside"),
        (lambda m: m.update(answers={"none_below": 3}), "answers.none_below: Input should be an object"),
        (lambda m: m["contract"]["preprocessing"].update(colour=1), "unexpected keyword argument 'colour'"),
        (lambda m: m["heads"].update(clinic={}), "head 'clinic' is not in both heads.safetensors and manifest.json"),
        (lambda m: m["heads"].pop("planes"), "head 'planes' is not in both heads.safetensors and manifest.json"),
    ],
)  # fmt: skip
def test_an_edited_manifest_is_refused_by_its_seal_and_behind_it(copied, change, resealed):
    path = copied / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json: ") as error:
        read_export(copied)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"manifest\.json: "):
        load_student(copied)
    path.write_text(json.dumps(seal(manifest)))
    if resealed is not None:  # what only the seal protects has no other witness
        with pytest.raises(ValueError, match=resealed):
            read_export(copied)


@pytest.mark.parametrize("file", ["../x", "/x", "a/../x", "a\\..\\x", "./x", "a//x", "a/", "a\0x"])
def test_a_file_is_named_by_its_plain_path_inside_the_folder(file):
    given = {"bytes": 1, "sha256": "", "kind": "document"}
    assert Artifact(file="golden/input_0.png", **given).file == "golden/input_0.png"
    with pytest.raises(ValueError, match="is not a path inside the export folder"):
        Artifact(file=file, **given)


@pytest.mark.parametrize(
    "name",
    ["MODEL_CARD.md", "parity.json", "image_encoder.onnx", "heads.safetensors", "golden/input_0.png",
     "image_encoder.mlpackage/**/weight.bin"],
)  # fmt: skip
def test_a_changed_file_is_refused(copied, name):
    (copied / "golden" / ".DS_Store").write_bytes(b"left by a Mac")
    read_export(copied)
    (path,) = copied.glob(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name.split('/')[0]}: its hash"):
        read_export(copied)
    if name in ("image_encoder.onnx", "heads.safetensors"):
        with pytest.raises(ValueError, match=f"{name}: its hash"):
            load_student(copied)


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.floats(), st.text(max_size=3), st.just([]), st.just({})
)


@pytest.mark.fuzz
@many
@given(data=st.data())
def test_damage_is_one_line_whatever_it_is(exported, tmp_path_factory, data):
    """Replace or remove any value of the manifest, or bytes of the heads, with hashes that fit."""
    folder = tmp_path_factory.mktemp("fuzz")
    for name in (*KEPT, "golden", "text"):
        (folder / name).symlink_to(exported.folder / name)
    manifest = json.loads(json.dumps(exported.manifest))
    manifest["artifacts"] = {
        name: entry
        for name, entry in manifest["artifacts"].items()
        if entry["file"] in KEPT or name == "heads"
    }
    content = bytearray(exported.artifact("heads").read_bytes())
    if data.draw(st.booleans(), "damage the heads"):
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, min(len(content) - 1, 4000)))
            content[place] = data.draw(st.integers(0, 255))
        content = content[: data.draw(st.sampled_from([len(content), len(content) // 2, 7, 0]))]
    (folder / "heads.safetensors").write_bytes(content)
    manifest["artifacts"]["heads"]["sha256"] = sha256(folder / "heads.safetensors")
    place = manifest
    if data.draw(st.booleans(), "damage the manifest"):
        while True:
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
                place = place[key]
                continue
            place[key] = data.draw(JUNK)
            break
    (folder / "manifest.json").write_text(json.dumps(seal(manifest)))
    for read in (read_export, load_student):
        message = ""
        try:
            read(folder)
        except (ValueError, FileNotFoundError) as error:
            message = str(error)
        assert "\n" not in message


def test_a_good_folder_is_read(copied, student):
    assert read_export(copied).preprocessing == student.preprocessing


def test_an_edited_contract_is_refused(copied):
    edit(copied, lambda manifest: manifest["contract"]["preprocessing"].update(image_size=96))
    with pytest.raises(ValueError, match="contract was edited"):
        read_export(copied)


def test_a_file_exported_under_another_contract_is_refused(copied):
    """Someone copies a file from another export and updates the hash: its own metadata give it away."""
    path = copied / "image_encoder.onnx"
    model = onnx.load(path)
    own = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**own, "sonodistill.contract_sha256": "0" * 64})
    onnx.save(model, path)
    edit(copied, lambda manifest: manifest["artifacts"]["onnx-fp32"].update(sha256=sha256(path)))
    with pytest.raises(ValueError, match="another preprocessing contract"):
        read_export(copied)


@pytest.mark.parametrize("content", [b"", b"no graph"])
def test_a_file_that_is_no_graph_is_refused(copied, content):
    path = copied / "image_encoder.onnx"
    path.write_bytes(content)
    edit(copied, lambda manifest: manifest["artifacts"]["onnx-fp32"].update(sha256=sha256(path)))
    with pytest.raises(ValueError, match=r"image_encoder\.onnx: not an ONNX file \([^\n]*\); export again$"):
        read_export(copied)


@pytest.mark.parametrize("damage", ["planes", "ages", "basis", "labels"])
def test_heads_that_are_not_finite_or_of_another_shape_are_refused(tmp_path, damage):
    texts = {"a": ["one"], "b": ["two"], **({"c": ["three"]} if damage == "labels" else {})}
    planes, few, basis = torch.eye(2, 3), torch.ones(1, 175, 2).half(), torch.eye(2, 3)
    if damage != "labels":
        {"planes": planes, "ages": few[0], "basis": basis}[damage][0, 0] = float("nan")
    ages = ShippedAges(["{weeks}"], ("0.30",), few, basis, {})
    write_heads(tmp_path / "heads.safetensors", {"planes": ClassHead("planes", texts, planes)}, ages, {})
    with pytest.raises(ValueError, match=r"not the heads of an export \(.*finite.*\); export again$"):
        read_heads(tmp_path / "heads.safetensors")


def test_a_package_exported_under_another_contract_is_refused(copied):
    path = copied / "image_encoder.mlpackage"
    (file,) = path.rglob("*.mlmodel")
    digest = json.loads((copied / "manifest.json").read_text())["contract_sha256"].encode()
    assert file.read_bytes().count(digest) == 1
    file.write_bytes(file.read_bytes().replace(digest, b"0" * 64))
    edit(copied, lambda manifest: manifest["artifacts"]["coreml-fp16"].update(sha256=sha256(path)))
    with pytest.raises(ValueError, match=r"image_encoder\.mlpackage: it was exported under another"):
        read_export(copied)


def test_missing_parts_are_named(copied, tmp_path):
    shutil.rmtree(copied / "image_encoder.mlpackage")
    with pytest.raises(FileNotFoundError, match=r"image_encoder\.mlpackage"):
        read_export(copied)
    (copied / "heads.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"heads\.safetensors: missing"):
        load_student(copied)
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        read_export(tmp_path)


def test_an_unknown_artifact_lists_the_others(exported):
    with pytest.raises(ValueError, match=r"no artifact 'x'.*onnx-fp32"):
        exported.artifact("x")


def test_the_digest_ignores_the_order_of_keys_and_nothing_else():
    assert contract_digest({"a": 1, "b": 2}) == contract_digest({"b": 2, "a": 1})
    assert contract_digest({"a": 1, "b": 2}) != contract_digest({"a": 1, "b": 3})
