"""Heads that carry the student's embeddings into the teacher's space."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear, normalize


class ProjectionHeads(nn.Module):
    """A linear map for each tower, followed by normalisation; the identity where both dimensions agree.

    As in CLIP-KD (Yang et al., CVPR 2024, section 3.3).

    Args:
        student_dim: D of the student's embeddings.
        teacher_dim: D of the teacher's embeddings.
    """

    def __init__(self, student_dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.image = _head(student_dim, teacher_dim)
        self.text = _head(student_dim, teacher_dim)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Map embeddings [b, student D] to unit length [b, teacher D] each."""
        return _unit(self.image, image), _unit(self.text, text)


def build_heads(loss: nn.Module, student_dim: int, teacher_dim: int | None) -> ProjectionHeads:
    """Make the heads of `loss`.

    Raises:
        ValueError: There is no teacher.
    """
    if teacher_dim is None:
        raise ValueError(f"{type(loss).__name__} needs a teacher: its embedding dimension is unknown")
    return ProjectionHeads(student_dim, teacher_dim)


def built(loss: nn.Module, heads: ProjectionHeads | None) -> ProjectionHeads:
    """Return `heads`.

    Raises:
        ValueError: `build` was not called before.
    """
    if heads is None:
        raise ValueError(
            f"{type(loss).__name__} has no projection heads: call build(student_dim, teacher_dim) "
            "before training"
        )
    return heads


def _unit(head: nn.Module, x: Tensor) -> Tensor:
    if isinstance(head, nn.Linear):
        # Heads kept in half precision still multiply in the precision of the loss.
        x = linear(x, head.weight.to(x.dtype), head.bias.to(x.dtype))
    return normalize(x, dim=1)


def _head(student_dim: int, teacher_dim: int) -> nn.Module:
    return nn.Identity() if student_dim == teacher_dim else nn.Linear(student_dim, teacher_dim)
