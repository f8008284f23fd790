"""Published architectures, their contracts, and user configurations."""

from __future__ import annotations

import json

import pytest
import torch

from models import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, OpenCLIPEncoder, Preprocessing, build
from tests.models.conftest import published

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def parameters(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_fetalclip_has_the_published_size_and_contract() -> None:
    teacher = published("FetalCLIP")
    assert teacher.preprocessing == Preprocessing(224, CLIP_MEAN, CLIP_STD, "bicubic", "clip", 117)
    assert teacher.embed_dim == 768
    assert round(parameters(teacher) / 1e6) in (427, 428)
    assert round(parameters(teacher.model.visual) / 1e6) == 304
    assert len(teacher.model.visual.transformer.resblocks) == 24
    assert len(teacher.model.transformer.resblocks) == 12
    assert teacher.model.transformer.resblocks[0].attn.num_heads == 12


def test_mobileclip2_s0_has_the_published_size_and_contract() -> None:
    with torch.device("meta"):
        student = OpenCLIPEncoder()
    assert student.preprocessing == Preprocessing(256, IMAGENET_MEAN, IMAGENET_STD, "bicubic", "clip", 117)
    assert student.embed_dim == 512
    assert round(parameters(student.model.visual) / 1e6, 1) == 11.4
    assert round(parameters(student) / 1e6) == 75


def test_a_users_json_file(tmp_path) -> None:
    path = tmp_path / "mine.json"
    contract = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear"}
    path.write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": contract}))
    model = OpenCLIPEncoder(str(path))
    assert model.preprocessing == Preprocessing(32, (0.1, 0.2, 0.3), (0.5,) * 3, "bilinear", "clip", 12)
    image, text = model(torch.randn(2, 3, 32, 32), model.tokenize(["brain", "femur"]))
    assert image.shape == text.shape == (2, 16)
    path.unlink()
    twin = build(model.recipe())  # the recipe carries the configuration: the file may be gone
    twin.load_state_dict(model.state_dict())
    assert twin.preprocessing == model.preprocessing
    json.dumps(model.recipe())


def test_arguments_override_the_configuration() -> None:
    model = OpenCLIPEncoder(
        "small",
        configuration={"model_cfg": SMALL},
        context_length=20,
        image_size=48,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        interpolation="bilinear",
    )
    assert model.preprocessing == Preprocessing(48, (0, 0, 0), (1, 1, 1), "bilinear", "clip", 20)
    assert model.encode_image(torch.randn(1, 3, 48, 48)).shape == (1, 16)
    assert build(model.recipe()).preprocessing == model.preprocessing
    assert SMALL["text_cfg"]["context_length"] == 12


def test_nothing_is_downloaded_for_any_name(monkeypatch) -> None:
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("a network connection was tried")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with torch.device("meta"):
        OpenCLIPEncoder("MobileCLIP2-S0")
        OpenCLIPEncoder("ViT-B-32")
    with pytest.raises(ValueError, match=r"takes its text side from the Hugging Face hub"):
        OpenCLIPEncoder("roberta-ViT-B-32")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FetalClip", r"'FetalClip' is unknown: use FetalCLIP, MobileCLIP2-S0, one of"),
        ("hf-hub:some/model", r"'hf-hub:some/model' is unknown"),
        ("coca_ViT-B-32", r"is a captioning model"),
    ],
)
def test_unsuitable_names(name, message) -> None:
    with pytest.raises(ValueError, match=message):
        OpenCLIPEncoder(name)


def test_unsuitable_files(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.json: no such model configuration"):
        OpenCLIPEncoder(str(tmp_path / "none.json"))
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a.json: not valid JSON"):
        OpenCLIPEncoder(str(tmp_path / "a.json"))
    (tmp_path / "b.json").write_text('{"embed_dim": 4}')
    with pytest.raises(ValueError, match=r"b.json: no open_clip .* lacks text_cfg, vision_cfg"):
        OpenCLIPEncoder(str(tmp_path / "b.json"))


def test_sigmoid_models_have_a_bias() -> None:
    model = OpenCLIPEncoder("small", configuration={"model_cfg": {**SMALL, "init_logit_bias": -10.0}})
    assert model.logit_bias.item() == -10


def test_the_licence_of_published_weights_is_logged(tmp_path, caplog) -> None:
    model = OpenCLIPEncoder("small", configuration={"model_cfg": SMALL})
    torch.save(model.model.state_dict(), tmp_path / "w.pt")
    with caplog.at_level("INFO"):
        OpenCLIPEncoder("FetalCLIP", weights=str(tmp_path / "w.pt"), configuration={"model_cfg": SMALL})
    assert "licence of the published FetalCLIP weights: CC BY-NC 4.0" in caplog.text
