"""`python -m experiments inspect` recognises files and prints the configuration that loads them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import yaml

from experiments.commands.inspect import main
from lightning_modules.distillation import RUN_RECORD
from models import from_checkpoint, fused_copy
from models.checkpoints import licences
from models.checkpoints.inspection import describe
from models.checkpoints.licences import NOTHING_INHERITED, PublishedFile
from tests.models.checkpoints.apple_layout import to_apple, to_released_student
from tests.models.conftest import published
from tests.models.test_loading import save


def meta_state(name: str, context_length: int | None = None) -> dict:
    """A full-size checkpoint on the meta device: only names, shapes and dtypes are needed."""
    state = published(name).model.state_dict()
    if context_length:
        state["text.positional_embedding"] = state["text.positional_embedding"][:context_length]
    return state


def apple(state: dict) -> dict:
    state["visual.trunk.head.fc.bias"] = torch.zeros(512)
    return to_apple(state)


@pytest.mark.parametrize(
    ("state", "layout", "architecture", "context", "parameters"),
    [
        (lambda: meta_state("FetalCLIP"), "open_clip", "FetalCLIP", None, 427_647_233),
        (lambda: meta_state("MobileCLIP2-S0"), "open_clip", "MobileCLIP2-S0", None, 74_855_553),
        (
            lambda: meta_state("MobileCLIP2-S0", context_length=77),
            "open_clip",
            "MobileCLIP2-S0",
            77,
            74_835_073,
        ),
        (
            lambda: to_released_student(meta_state("MobileCLIP2-S0")),
            "MobileFetalCLIP release",
            "MobileCLIP2-S0",
            None,
            74_855_553,
        ),
    ],
    ids=["teacher", "student", "apple-open_clip", "released"],
)
def test_published_checkpoints_are_recognised(state, layout, architecture, context, parameters) -> None:
    found = describe({"state_dict": state()}, "file.pt")
    assert (found.layout, found.architecture) == (layout, architecture)
    assert found.arguments.get("context_length") == context
    assert found.parameters == parameters
    assert found.image_parameters == (303_966_208 if architecture == "FetalCLIP" else 11_406_976)
    assert found.dtypes.get("float32")
    assert not found.fused
    known = {"MobileFetalCLIP release": "MobileFetalCLIP"}.get(layout, architecture)
    assert found.licence == licences.WEIGHT_LICENCES[known]


RECIPE = {"class_path": "models.OpenCLIPEncoder", "init_args": {"name": "MobileCLIP2-S0"}}


def test_our_student_of_a_published_architecture_does_not_get_its_weights_terms() -> None:
    state = {"student.model.visual.weight": torch.zeros(2, 3), "loss.weight": torch.zeros(9)}
    student = {"recipe": RECIPE, "preprocessing": {"image_size": 256}}
    found = describe({"state_dict": state, "student": student}, "best.ckpt")
    assert (found.architecture, found.licence) == ("MobileCLIP2-S0", licences.UNKNOWN_LICENCE)
    assert (found.parameters, found.image_parameters) == (6, None)


@pytest.mark.parametrize(
    ("student", "lacks"),
    [
        (3, "recipe"),
        ({"preprocessing": {}}, "recipe"),
        ({"recipe": {**RECIPE, "class_path": None}, "preprocessing": {}}, "recipe"),
        ({"recipe": {**RECIPE, "init_args": ["x"]}, "preprocessing": {}}, "recipe"),
        ({"recipe": RECIPE}, "preprocessing contract"),
        ({"recipe": RECIPE, "preprocessing": 3}, "preprocessing contract"),
    ],
)
def test_a_checkpoint_that_does_not_describe_its_student_is_refused(student, lacks, tmp_path) -> None:
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": {"student.weight": torch.zeros(2)}, "student": student}, path)
    with pytest.raises(ValueError, match=rf"^{path}: its entry 'student' has no {lacks}[^\n]*$"):
        from_checkpoint(str(path))


@pytest.mark.parametrize("change", ["extra", "missing"])
def test_a_model_with_an_extra_or_missing_key_is_recognised(change) -> None:
    state = meta_state("FetalCLIP")
    if change == "extra":
        state["visual.extra"] = torch.zeros(1)
    else:
        del state["ln_final.bias"]
    found = describe(state, "file.pt")
    assert found.architecture == "FetalCLIP"
    assert found.arguments == {"name": "FetalCLIP"}


def test_apples_layout_is_recognised() -> None:
    found = describe(apple(meta_state("MobileCLIP2-S0", context_length=77)), "file.pt")
    assert (found.layout, found.architecture) == ("Apple MobileCLIP", "MobileCLIP2-S0")
    assert "apple-amlr" in found.licence
    assert found.arguments["std"] == (1, 1, 1)


def test_other_open_clip_models_are_named_but_not_loaded_blindly(monkeypatch, capsys) -> None:
    few = ["RN50", "ViT-B-16", "ViT-B-32", "ViT-B-32-quickgelu", "coca_ViT-B-32", "roberta-ViT-B-32"]
    monkeypatch.setattr(open_clip, "list_models", lambda: few)
    found = describe(meta_state("ViT-B-32"), "file.pt")
    assert found.candidates == ("ViT-B-32", "ViT-B-32-quickgelu")
    assert found.arguments is None
    monkeypatch.setattr("experiments.commands.inspect.read_checkpoint", lambda _: meta_state("ViT-B-32"))
    monkeypatch.setattr("experiments.commands.inspect.published_file", lambda _: None)
    main(["file.pt"])
    configuration = yaml.safe_load(capsys.readouterr().out.split("load with:\n")[1])
    assert configuration["init_args"]["name"] == "FILL IN: ViT-B-32 or ViT-B-32-quickgelu"


def test_our_checkpoint_is_described_with_the_configuration_that_loads_it(vit, tmp_path, capsys) -> None:
    path = save(vit, tmp_path / "best.ckpt")
    main([path])
    printed, configuration = capsys.readouterr().out.split("load with:\n")
    assert "SonoDistill" in printed
    assert f"{sum(p.numel() for p in vit.parameters()):,}" in printed
    loads = {"class_path": "models.from_checkpoint", "init_args": {"path": path}}
    assert yaml.safe_load(configuration) == loads


def test_our_checkpoint_passes_on_the_terms_of_its_teacher_and_start(vit, tmp_path, capsys) -> None:
    record = {"teacher": {"licence": "CC BY-NC 4.0"}, "start": {"licence": NOTHING_INHERITED}}
    for changes, said in (({RUN_RECORD: record}, "CC BY-NC 4.0"), ({}, licences.UNKNOWN_LICENCE)):
        main([save(vit, tmp_path / "best.ckpt", **changes)])
        assert f"licence:      {said}\n" in capsys.readouterr().out


def test_a_published_file_is_named_by_its_size_and_digest(vit, tmp_path, capsys, monkeypatch) -> None:
    path = Path(save(vit, tmp_path / "weights.ckpt"))
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    known = PublishedFile(len(content), digest, "a teacher", "example.org/teacher", "CC BY 4.0")
    other = replace(known, sha256="0" * 64, name="another file of this size")
    for files, named in (((other, known), True), ((other,), False), ((), False)):
        monkeypatch.setattr(licences, "PUBLISHED_FILES", files)
        main([str(path)])
        printed = capsys.readouterr().out
        assert ("a teacher (example.org/teacher)" in printed) == ("CC BY 4.0" in printed) == named
        assert "another file" not in printed


def test_the_papers_files_are_not_for_commercial_use() -> None:
    for file in licences.PUBLISHED_FILES:
        assert ("numansaeed" in file.source) == (file.licence == "CC BY-NC 4.0: no commercial use"), file.name


def test_the_digest_is_computed_only_where_the_size_fits(vit, tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the file was read")

    monkeypatch.setattr(hashlib, "file_digest", refuse)
    assert licences.published_file(save(vit, tmp_path / "weights.ckpt")) is None


def test_a_fused_checkpoint_is_recognised(repvit, tmp_path, capsys) -> None:
    state = {f"visual.{name}": value for name, value in fused_copy(repvit).state_dict().items()}
    state["visual.mixer.reparam_conv.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "fused.pt")
    main([str(tmp_path / "fused.pt")])
    assert "fused: inference only" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^.*none\.pt.*$"):
        main([str(tmp_path / "none.pt")])
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"^.*junk\.pt.*$"):
        main([str(tmp_path / "junk.pt")])
