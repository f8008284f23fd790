"""Baseline: the SRKD loss as the authors describe it.

Written from the description, not from their code: CLIP's loss and the distillation loss are two functions that each
compute their own logits, in each direction; the distillation materialises softmax, log-softmax, the pointwise
divergence, an identity matrix and its complement for every direction.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Return CLIP's symmetric cross-entropy, a scalar."""
    labels = torch.arange(len(image), device=image.device)
    image_logits = scale * image @ text.T
    text_logits = scale * text @ image.T
    return (F.cross_entropy(image_logits, labels) + F.cross_entropy(text_logits, labels)) / 2


def decoupled_divergence(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the diagonal and the off-diagonal part of KL(p || q) for one direction."""
    p = F.softmax(teacher_logits / temperature, dim=1)
    log_q = F.log_softmax(student_logits, dim=1)
    divergence = F.kl_div(log_q, p, reduction="none")
    own = torch.eye(len(p), device=p.device, dtype=p.dtype)
    others = 1 - own
    return (divergence * own).sum(dim=1).mean(), (divergence * others).sum(dim=1).mean()


def srkd_loss(
    student: tuple[Tensor, Tensor, Tensor],
    teacher: tuple[Tensor, Tensor, Tensor],
    temperature: float = 5.0,
    off_diagonal_weight: float = 2.0,
) -> Tensor:
    """Return the whole loss; `student` and `teacher` are (image [B, D], text [B, D], logit scale)."""
    image, text, scale = student
    task = clip_loss(image, text, scale)
    student_image_logits = scale * image @ text.T
    student_text_logits = scale * text @ image.T
    with torch.no_grad():
        t_image, t_text, t_scale = teacher
        teacher_image_logits = t_scale * t_image @ t_text.T
        teacher_text_logits = t_scale * t_text @ t_image.T
    image_diagonal, image_others = decoupled_divergence(
        student_image_logits, teacher_image_logits, temperature
    )
    text_diagonal, text_others = decoupled_divergence(student_text_logits, teacher_text_logits, temperature)
    diagonal = (image_diagonal + text_diagonal) / 2
    others = (image_others + text_others) / 2
    return task + diagonal + off_diagonal_weight * others
