"""The frozen teacher: each property that Lightning could break, one test."""

from __future__ import annotations

import pytest
import torch
from lightning import LightningModule
from torch.nn import BatchNorm2d

from models import OpenCLIPEncoder, freeze
from tests.models.conftest import FASTVIT, small


def batch(model) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(3, 3, 64, 64), model.tokenize(["brain at 20 weeks", "abdomen", "femur"])


def test_stays_in_eval_mode_when_its_parent_trains(repvit) -> None:
    parent = LightningModule()
    parent.teacher = freeze(repvit)
    parent.train()
    assert parent.training
    assert not any(module.training for module in parent.teacher.modules())


def test_batch_norm_statistics_never_move(repvit) -> None:
    teacher = freeze(repvit)
    teacher.train(True)
    before = [module.running_mean.clone() for module in teacher.modules() if isinstance(module, BatchNorm2d)]
    teacher(*batch(teacher))
    after = [module.running_mean for module in teacher.modules() if isinstance(module, BatchNorm2d)]
    assert len(before) > 5
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_has_no_gradients_and_no_graph_even_when_unfrozen(vit) -> None:
    teacher = freeze(vit)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for parameter in teacher.parameters():  # what LightningModule.unfreeze does
        parameter.requires_grad_(True)
    image, text = teacher(*batch(teacher))
    assert not image.requires_grad
    assert not text.requires_grad


def test_embeds_as_the_model_it_holds(vit) -> None:
    vit.eval()
    inputs = batch(vit)
    with torch.no_grad():
        expected = vit(*inputs)
    teacher = freeze(vit)
    for held, own in zip(teacher(*inputs), expected, strict=True):
        torch.testing.assert_close(held, own)  # kernels follow memory alignment: not always bit for bit
    assert torch.equal(teacher.logit_scale, vit.logit_scale)
    assert teacher.recipe() == vit.recipe()
    assert teacher.preprocessing == vit.preprocessing
    assert freeze(teacher) is teacher


@pytest.mark.parametrize("trunk", ["vit", FASTVIT], ids=["vit", "fastvit"])
def test_half_precision_keeps_embeddings_and_halves_matrices(trunk, vit) -> None:
    model = vit if trunk == "vit" else small(trunk)
    inputs = batch(model)
    teacher = freeze(model)
    full = teacher(*inputs)
    teacher.use_half(torch.bfloat16)
    halved = teacher(*inputs)
    assert {p.dtype for p in model.parameters() if p.ndim > 1} == {torch.bfloat16}
    assert model.log_logit_scale.dtype == torch.float32
    for a, b in zip(full, halved, strict=True):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        assert (a * b).sum(dim=-1).min() > 0.999


def test_half_precision_refuses_other_dtypes(vit) -> None:
    with pytest.raises(ValueError, match=r"bfloat16 or torch.float16, not torch.int8"):
        freeze(vit).use_half(torch.int8)


def test_half_precision_of_an_open_clip_teacher() -> None:
    """Attention has a fused inference path that refuses mixed dtypes: it must not be taken."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    torch.manual_seed(0)
    teacher = freeze(OpenCLIPEncoder("small", configuration={"model_cfg": config}))
    inputs = torch.randn(3, 3, 32, 32), teacher.tokenize(["brain", "abdomen", "femur"])
    full = teacher(*inputs)
    halved = teacher.use_half(torch.bfloat16)(*inputs)
    for a, b in zip(full, halved, strict=True):
        assert b.dtype == torch.float32
        assert (a * b).sum(dim=-1).min() > 0.999
