"""Wrong settings and wrong batches end in one line that names the remedy."""

from __future__ import annotations

import pytest
import torch

from losses import (
    CLIPLoss,
    CombinedLoss,
    ConfidencePenaltyKDLoss,
    CoupledKDLoss,
    Embeddings,
    FeatureKDLoss,
    InteractiveContrastiveLoss,
    SigLIPLoss,
    SRKDLoss,
)
from tests.losses.loss_cases import CASES, make_batch, make_teacher

WITH_TEACHER = [name for name in CASES if not name.startswith(("clip", "siglip"))]


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_a_missing_teacher_and_one_of_another_batch(name):
    loss = CASES[name].build()
    with pytest.raises(ValueError, match="needs a teacher"):
        loss(make_batch(), None)
    with pytest.raises(ValueError, match="batch size is 5, the teacher's 4"):
        loss(make_batch(B=5), make_teacher(B=4))


@pytest.mark.parametrize("make", [SRKDLoss, CoupledKDLoss, ConfidencePenaltyKDLoss])
@pytest.mark.parametrize("temperature", [0.0, float("nan"), float("inf")])
def test_temperature(make, temperature):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        make(temperature=temperature)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ConfidencePenaltyKDLoss(smoothing=1.5), r"smoothing must be in \[0, 1\], not 1.5"),
        (lambda: FeatureKDLoss(distance="l1"), "distance must be mse or cosine, not 'l1'"),
        (lambda: InteractiveContrastiveLoss(initial_logit_scale=0), "initial_logit_scale must be above 0"),
        (lambda: InteractiveContrastiveLoss(initial_logit_scale=200), "at most 100, not 200"),
        (lambda: CombinedLoss({}), "losses is empty"),
        (lambda: CombinedLoss({"a": CLIPLoss()}, {"a": 0}), "all weights are 0"),
        (lambda: CombinedLoss({"a": CLIPLoss()}, {"b": 1.0}), r"weights \['b'\] name no loss.*\['a'\]"),
        (
            lambda: CombinedLoss({"a": SRKDLoss(), "b": CoupledKDLoss()}),
            r"one loss only, not all of \['a', 'b'\]",
        ),
        (
            lambda: CombinedLoss({"a.b": CLIPLoss(), "type": SRKDLoss()}),
            r"named \['a.b', 'type'\].*rename them",
        ),
        (lambda: FeatureKDLoss().build(4, None), "FeatureKDLoss needs a teacher"),
        (lambda: FeatureKDLoss()(make_batch(), make_teacher()), "call build"),
        (lambda: SigLIPLoss()(make_batch()), "set initial_bias"),
        (lambda: SigLIPLoss(initial_bias=-10)(make_batch(bias=-9.0)), "remove initial_bias"),
    ],
)
def test_settings(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(("image", "text"), [((5, 4), (6, 4)), ((5, 4), (5, 3)), ((5,), (5,))])
def test_shapes(image, text):
    with pytest.raises(ValueError, match=rf"must both be \[B, D\], not \[{image[0]}"):
        Embeddings(torch.zeros(image), torch.zeros(text), torch.tensor(1.0))


def test_logit_scale():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"logit_scale must be a scalar tensor: torch.tensor\(14.0\)"):
        Embeddings(x, x, 14.0)
    with pytest.raises(ValueError, match=r"logit_scale must be a scalar tensor, not \[2\]"):
        Embeddings(x, x, torch.ones(2))


def test_an_empty_batch():
    with pytest.raises(ValueError, match="the batch is empty"):
        Embeddings(torch.zeros(0, 2), torch.zeros(0, 2), torch.tensor(1.0))


@pytest.mark.parametrize("name", ["caption_id", "class_id"])
def test_ids_are_one_per_pair(name):
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=rf"{name} must be \[3\], one per pair, not \[2\]"):
        Embeddings(x, x, torch.tensor(1.0), **{name: torch.zeros(2, dtype=torch.int64)})


@pytest.mark.parametrize(
    "loss",
    [CLIPLoss(multi_positive=True), SRKDLoss(mask_duplicates=True), CoupledKDLoss(mask_duplicates=True)],
)
def test_duplicates_need_caption_ids(loss):
    batch = make_batch()
    with pytest.raises(ValueError, match="carry no caption_id"):
        loss(Embeddings(batch.image, batch.text, batch.logit_scale), make_teacher())


def test_without_caption_ids_no_rate_is_reported():
    batch = make_batch()
    result = CLIPLoss()(Embeddings(batch.image, batch.text, batch.logit_scale))
    assert set(result) == {"total", "contrastive"}


def test_the_teacher_gets_no_gradient():
    teacher = make_batch(seed=4)
    assert teacher.image.requires_grad
    SRKDLoss()(make_batch(), teacher)["total"].backward()
    assert teacher.image.grad is None
    assert teacher.logit_scale.grad is None
