"""FetalCLIP's file as ``TEACHER=``: the published layout and contract, at reduced width."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from open_clip.model import CLIP

from experiments.config import expand_file_options
from models import CLIP_MEAN, CLIP_STD, Preprocessing, from_checkpoint, open_clip_config

REDUCED = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "patch_size": 14},
    "text_cfg": {"context_length": 117, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(autouse=True)
def _reduced_configuration(tmp_path, monkeypatch):
    """Reduce the width of FetalCLIP's configuration."""
    configs = tmp_path / "configs"
    shutil.copytree(open_clip_config.CONFIGS, configs)
    published = json.loads((configs / "FetalCLIP.json").read_text())
    assert {key: value.keys() for key, value in published["model_cfg"].items() if key != "embed_dim"} == {
        key: value.keys() for key, value in REDUCED.items() if key != "embed_dim"
    }
    (configs / "FetalCLIP.json").write_text(json.dumps({**published, "model_cfg": REDUCED}))
    monkeypatch.setattr(open_clip_config, "CONFIGS", configs)


@pytest.fixture
def original() -> CLIP:
    """The model built by open_clip itself, with no tensor at its initial value."""
    torch.manual_seed(0)
    model = CLIP(**REDUCED).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def teacher_of(path):
    """Build the teacher of a run with ``TEACHER=path``."""
    (argument,) = expand_file_options("planes", [f"--teacher={path}"])
    option, _, value = argument.partition("=")
    settings = json.loads(value)
    assert (option, settings["class_path"]) == ("--model.teacher", "models.from_checkpoint")
    return from_checkpoint(**settings["init_args"])


def test_its_file_gives_the_original_embeddings_and_the_published_contract(original, tmp_path):
    state = {f"module.{name}": value for name, value in original.state_dict().items()}
    path = tmp_path / "FetalCLIP_weights.pt"
    torch.save({"epoch": 20, "name": "fetal", "state_dict": state}, path)
    teacher, original = teacher_of(path).eval().double(), original.double()
    assert teacher.preprocessing == Preprocessing(224, CLIP_MEAN, CLIP_STD, "bicubic", "clip", 117)
    image = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    tokens = teacher.tokenize(["Ultrasound of the fetal brain at 24 weeks and 3 days.", "femur"])
    assert tokens.shape == (2, 117)
    with torch.no_grad():
        expected = [
            original.encode_image(image, normalize=True),
            original.encode_text(tokens, normalize=True),
        ]
        for ours, theirs in zip(teacher(image, tokens), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
        torch.testing.assert_close(teacher.logit_scale, original.logit_scale.exp())


def test_an_unexpected_key_of_its_file_is_named(original, tmp_path):
    state = {f"module.{name}": value for name, value in original.state_dict().items()}
    torch.save({"state_dict": {**state, "module.visual.surprise": torch.zeros(1)}}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt does not fit FetalCLIP: 1 unexpected: visual\.surprise$"):
        teacher_of(tmp_path / "odd.pt")
