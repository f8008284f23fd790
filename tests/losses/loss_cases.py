"""Random batches, and every loss with the naive version of each of its terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

from losses import (
    CLIPLoss,
    CombinedLoss,
    ConfidencePenaltyKDLoss,
    ContrastiveRelationalLoss,
    CoupledKDLoss,
    Embeddings,
    FeatureKDLoss,
    InteractiveContrastiveLoss,
    Loss,
    SigLIPLoss,
    SRKDControlLoss,
    SRKDLoss,
)
from tests.losses import naive_losses as naive

STUDENT_DIM, TEACHER_DIM = 4, 6


def make_batch(B=5, D=STUDENT_DIM, scale=8.0, seed=0, dtype=torch.float64, bias=None, grad=True):
    """Return unit-length embeddings; captions 0 and 3 of every five are equal."""
    generator = torch.Generator().manual_seed(seed)
    image, text = (
        normalize(torch.randn(B, D, dtype=torch.float64, generator=generator), dim=1).to(dtype)
        for _ in range(2)
    )
    return Embeddings(
        image=image.requires_grad_(grad),
        text=text.requires_grad_(grad),
        logit_scale=torch.tensor(scale, dtype=dtype, requires_grad=grad),
        logit_bias=None if bias is None else torch.tensor(bias, dtype=dtype, requires_grad=grad),
        caption_id=torch.tensor([i - 3 if i % 5 == 3 else i for i in range(B)]) * 10**15,
        class_id=torch.arange(B) % 3,
    )


def make_teacher(B=5, seed=1, scale=30.0, dtype=torch.float64):
    return make_batch(B, TEACHER_DIM, scale, seed, dtype, grad=False)


@dataclass
class Case:
    """A loss, its naive terms `(student, teacher, loss) -> {name: value}` and the weights of the sum."""

    make: Callable[[], Loss]
    terms: Callable[[Embeddings, Embeddings, Any], dict[str, torch.Tensor]]
    weights: dict[str, float]
    bias: float | None = None

    def build(self) -> Loss:
        torch.manual_seed(3)
        loss = self.make()
        loss.build(STUDENT_DIM, TEACHER_DIM)
        return loss.double()


def _srkd(temperature=5.0, multi_positive=False, **options):
    def terms(s, t, _):
        diagonal, off_diagonal = naive.decoupled(s, t, temperature, **options)
        return {
            "contrastive": naive.contrastive(s, multi_positive),
            "diagonal": diagonal,
            "off_diagonal": off_diagonal,
        }

    return terms


def _near(s, t, _):
    def near(i, j):
        return float(t.text[i] @ t.text[j]) >= NEAR

    diagonal, off_diagonal = naive.decoupled(s, t, 5.0, excluded=near)
    return {"contrastive": naive.contrastive(s), "diagonal": diagonal, "off_diagonal": off_diagonal}


def _held(s, t, _):
    def same(i, j):
        return bool(s.class_id[i] == s.class_id[j])

    diagonal, scheduled = naive.decoupled(s, t, 5.0, excluded=same)
    _, held = naive.decoupled(s, t, 5.0, excluded=lambda i, j: not same(i, j))
    terms = {"diagonal": diagonal, "off_diagonal": scheduled, "held": held}
    return {"contrastive": naive.contrastive(s), **terms}


NEAR = 0.1  # a cosine in the middle of those of random texts
CASES = {
    "clip": Case(CLIPLoss, lambda s, *_: {"contrastive": naive.contrastive(s)}, {}),
    "clip-multi-positive": Case(
        lambda: CLIPLoss(multi_positive=True), lambda s, *_: {"contrastive": naive.contrastive(s, True)}, {}
    ),
    "siglip": Case(
        lambda: SigLIPLoss(initial_bias=-3.0),
        lambda s, _, loss: {"sigmoid": naive.sigmoid(s, loss.bias)},
        {},
    ),
    "siglip-student-bias-multi-positive": Case(
        lambda: SigLIPLoss(multi_positive=True),
        lambda s, *_: {"sigmoid": naive.sigmoid(s, s.logit_bias, True)},
        {},
        bias=-2.0,
    ),
    "srkd": Case(SRKDLoss, _srkd(), {"off_diagonal": 2.0}),
    "srkd-repulsive": Case(
        lambda: SRKDLoss(temperature=2.0, off_diagonal_weight=-0.8, contrastive_weight=0.5),
        _srkd(2.0),
        {"off_diagonal": -0.8, "contrastive": 0.5},
    ),
    "srkd-plain": Case(lambda: SRKDLoss(kernel="plain"), _srkd(), {"off_diagonal": 2.0}),
    "srkd-chunked": Case(lambda: SRKDLoss(kernel="chunked"), _srkd(), {"off_diagonal": 2.0}),
    "srkd-falls-back": Case(lambda: SRKDLoss(temperature=0.01), _srkd(0.01), {"off_diagonal": 2.0}),
    "srkd-multi-positive": Case(
        lambda: SRKDLoss(multi_positive=True), _srkd(multi_positive=True), {"off_diagonal": 2.0}
    ),
    "srkd-duplicates": Case(
        lambda: SRKDLoss(off_diagonal_weight=-0.8, multi_positive=True, mask_duplicates=True),
        _srkd(multi_positive=True, mask_duplicates=True),
        {"off_diagonal": -0.8},
    ),
    "srkd-standardized": Case(
        lambda: SRKDLoss(temperature=1.5, standardize=True),
        _srkd(1.5, standardize=True),
        {"off_diagonal": 2.0},
    ),
    "control-near": Case(
        lambda: SRKDControlLoss(exclude_above_cosine=NEAR, off_diagonal_weight=-0.8),
        _near,
        {"off_diagonal": -0.8},
    ),
    "control-held": Case(
        lambda: SRKDControlLoss(held="same_class", held_weight=3.0, off_diagonal_weight=-0.8),
        _held,
        {"off_diagonal": -0.8, "held": 3.0},
    ),
    "coupled": Case(
        lambda: CoupledKDLoss(distillation_weight=-0.5),
        lambda s, t, _: {"contrastive": naive.contrastive(s), "distillation": naive.divergence(s, t, 5.0)},
        {"distillation": -0.5},
    ),
    "coupled-duplicates": Case(
        lambda: CoupledKDLoss(distillation_weight=-0.5, contrastive_weight=0.0, mask_duplicates=True),
        lambda s, t, _: {"distillation": naive.divergence(s, t, 5.0, mask_duplicates=True)},
        {"distillation": -0.5},
    ),
    "coupled-standardized": Case(
        lambda: CoupledKDLoss(temperature=2.0, standardize=True, contrastive_weight=0.0),
        lambda s, t, _: {"distillation": naive.divergence(s, t, 2.0, True)},
        {},
    ),
    "confidence-penalty": Case(
        ConfidencePenaltyKDLoss,
        lambda s, t, _: {
            "contrastive": naive.contrastive(s),
            "distillation": naive.divergence(s, t, 5.0, smoothing=0.1),
        },
        {},
    ),
    "relational": Case(
        lambda: ContrastiveRelationalLoss(relational_weight=3.0, contrastive_weight=0.0),
        lambda s, t, _: {"relational": naive.divergence(s, t, 1.0)},
        {"relational": 3.0},
    ),
    "feature-mse": Case(
        FeatureKDLoss,
        lambda s, t, loss: {
            "contrastive": naive.contrastive(s),
            "feature": naive.feature(s, t, loss.heads, "mse"),
        },
        {"feature": 2000.0},
    ),
    "feature-cosine": Case(
        lambda: FeatureKDLoss(distance="cosine", feature_weight=2.0),
        lambda s, t, loss: {
            "contrastive": naive.contrastive(s),
            "feature": naive.feature(s, t, loss.heads, "cosine"),
        },
        {"feature": 2.0},
    ),
    "interactive": Case(
        lambda: InteractiveContrastiveLoss(interactive_weight=0.7),
        lambda s, t, loss: {
            "contrastive": naive.contrastive(s),
            "interactive": naive.interactive(s, t, loss.heads, torch.exp(loss.log_logit_scale)),
        },
        {"interactive": 0.7},
    ),
    "interactive-multi-positive": Case(
        lambda: InteractiveContrastiveLoss(multi_positive=True),
        lambda s, t, loss: {
            "contrastive": naive.contrastive(s, True),
            "interactive": naive.interactive(s, t, loss.heads, torch.exp(loss.log_logit_scale), True),
        },
        {},
    ),
    "combined": Case(
        lambda: CombinedLoss(
            {"task": CLIPLoss(), "srkd": SRKDLoss(contrastive_weight=0.0)}, {"srkd": 0.5, "task": 3.0}
        ),
        lambda s, t, _: {
            "task/total": naive.contrastive(s),
            "srkd/total": sum(w * x for w, x in zip((1, 2), naive.decoupled(s, t, 5.0), strict=True)),
        },
        {"srkd/total": 0.5, "task/total": 3.0},
    ),
}
