"""Other published teachers: ViT-L/14 at 336 px in open_clip's layout, OpenAI's own file, and SonoCLIP's."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from torch import Tensor

from experiments.config import resolve
from models import CLIP_MEAN, CLIP_STD, OpenCLIPEncoder, Preprocessing, from_checkpoint, load_weights
from models.checkpoints.inspection import describe
from models.loading import build

NAME = "ViT-L-14-336-quickgelu"
# Beside the weights in OpenAI's files, which otherwise have open_clip's names.
SIZES = {
    "input_resolution": torch.tensor(336),
    "context_length": torch.tensor(77),
    "vocab_size": torch.tensor(49408),
}


def published(device: str) -> open_clip.CLIP:
    config = open_clip.get_model_config(NAME)
    with torch.device(device):
        return open_clip.CLIP(**config)


def test_a_large_teacher_at_336_pixels_loads_in_its_real_shape(monkeypatch) -> None:
    monkeypatch.setattr(open_clip, "list_models", lambda: ["ViT-L-14", "ViT-L-14-336", NAME])
    state = published("meta").state_dict()
    assert describe(state, "file.pt").architecture == f"ViT-L-14-336 or {NAME}"
    with torch.device("meta"):
        teacher = OpenCLIPEncoder(NAME)
    teacher.load(
        {"state_dict": {f"module.{name}": value for name, value in state.items()} | SIZES}, "file.pt"
    )
    assert teacher.preprocessing == Preprocessing(336, CLIP_MEAN, CLIP_STD, "bicubic", "clip", 77)
    parameters = sum(parameter.numel() for parameter in teacher.model.visual.parameters())
    assert round(parameters / 1e6, 1) == 304.3


def test_a_file_at_another_size_is_one_line_that_names_what_differs(monkeypatch) -> None:
    monkeypatch.setattr(open_clip, "list_models", lambda: ["ViT-L-14"])
    with torch.device("meta"):
        teacher, other = OpenCLIPEncoder(NAME), OpenCLIPEncoder("ViT-L-14")
    shapes = r"visual\.positional_embedding \[257, 1024\] for \[577, 1024\]"
    with pytest.raises(
        ValueError, match=rf"^f\.pt does not fit {NAME}: 1 of another shape: {shapes}; .*ViT-L-14"
    ):
        teacher.load(other.model.state_dict(), "f.pt")


@pytest.mark.slow
def test_its_recipe_gives_open_clips_own_embeddings(tmp_path) -> None:
    torch.manual_seed(0)
    original = published("cpu").eval()
    torch.save({"state_dict": original.half().state_dict() | SIZES}, tmp_path / "teacher.pt")
    recipe = {
        "class_path": "models.OpenCLIPEncoder",
        "init_args": {"name": NAME, "weights": str(tmp_path / "teacher.pt")},
    }
    config = resolve("srkd", "phantom", [f"--model.teacher={json.dumps(recipe)}"])
    teacher = build(config.model.teacher.as_dict()).eval()
    image = torch.randn(1, 3, 336, 336)
    tokens = teacher.tokenize(["Ultrasound of the fetal brain at 24 weeks and 3 days."])
    original.float()
    with torch.no_grad():
        for ours, theirs in zip(
            teacher(image, tokens),
            (original.encode_image(image, normalize=True), original.encode_text(tokens, normalize=True)),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def sonoclip() -> dict[str, Tensor]:
    """Names of SonoCLIP's image tower: a stem with mask and depthwise convolution, ``attn.in_proj`` as a layer."""
    block = "transformer.resblocks.0.attn.in_proj"
    names = ("conv1.weight", "conv1_alpha.weight", "dwconv.weight", "positional_embedding", f"{block}.weight")
    return {name: torch.zeros(2, 2) for name in names}


@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "ddp"])
@pytest.mark.parametrize("nested", [True, False], ids=["training", "tower"])
def test_sonoclips_own_file_is_refused_by_what_differs(nested, prefix, tmp_path) -> None:
    state = {f"{prefix}{name}": value for name, value in sonoclip().items()}
    path = tmp_path / "sonoclip_vision.pth"
    torch.save({"visual": state, "logit_scale": torch.zeros(()), "step": 1} if nested else state, path)
    for load in (from_checkpoint, load_weights):
        with pytest.raises(ValueError, match=r"^.*vision\.pth: SonoCLIP.*conv1_alpha.*dwconv.*text tower"):
            load(str(path))


def test_openais_archive_is_refused_with_the_way_to_its_weights(tmp_path) -> None:
    path = tmp_path / "ViT-L-14-336px.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(
        ValueError, match=r"ViT-L-14-336px\.pt: refused, a TorchScript archive.*state_dict\(\)"
    ):
        from_checkpoint(str(path))
