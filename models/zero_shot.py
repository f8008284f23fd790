"""Text embeddings of zero-shot classes and gestational ages, and their comparison with images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from metrics import AGES_DAYS
from models.encoders.dual_encoder import DualEncoder

ACTIVATIONS_AT_ONCE = 450_000
"""Prompts x tokens x width that fit a CPU's cache: 7 prompts of the full-size student, 29 of the teacher."""
PROMPTS_ON_GPU = 512
PIXELS_AT_ONCE = 4 * 256**2
"""Images x height x width of one forward pass on a CPU: 4 images of the full-size student."""
COSINE_SCALE = 100.0  # the published protocol's fixed factor, not the model's own logit scale
IMAGES_AT_ONCE = 64  # bounds the memory of images x 175 ages x D

Progress = Callable[[int, int], None]


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute in plain float32 on a GPU, as evaluations do."""
    backends: Any = torch.backends
    matmul, convolution = backends.cuda.matmul, backends.cudnn.conv
    before = matmul.fp32_precision, convolution.fp32_precision
    matmul.fp32_precision = convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision, convolution.fp32_precision = before


def prompts_at_once(model: DualEncoder, prompt: str) -> int:
    """Return the fastest batch size of prompts like this one for a model's text tower.

    On a CPU the activations of a batch should fit the cache; `embed_dim` stands for the tower's width.
    """
    if next(model.parameters()).device.type != "cpu":
        return PROMPTS_ON_GPU
    return max(4, ACTIVATIONS_AT_ONCE // (model.columns_of(model.tokenize([prompt])) * model.embed_dim))


@torch.no_grad()
def encode_prompts(model: DualEncoder, prompts: Sequence[str], progress: Progress | None = None) -> Tensor:
    """Embed N prompts: unit-length [N, D], float32, on the model's device; repetitions cost nothing.

    Args:
        model: The model, in the caller's mode (eval, for evaluation).
        prompts: N texts.
        progress: Called after every batch with the number of distinct prompts done and their total.
    """
    distinct = list(dict.fromkeys(prompts))
    device = next(model.parameters()).device
    batch_size = prompts_at_once(model, distinct[0])
    parts = []
    for start in range(0, len(distinct), batch_size):
        texts = distinct[start : start + batch_size]
        tokens = model.tokenize(texts)
        parts.append(model.encode_text(tokens[:, : model.columns_of(tokens)].to(device)).float())
        if progress is not None:
            progress(start + len(texts), len(distinct))
    position = {text: row for row, text in enumerate(distinct)}
    rows = torch.tensor([position[text] for text in prompts], dtype=torch.int64, device=device)
    return torch.cat(parts)[rows]


@torch.no_grad()
def encode_images(model: DualEncoder, images: Tensor) -> Tensor:
    """Embed normalised images [N, 3, S, S] as [N, D]; on a CPU in parts that fit its cache.

    An image in a batch of 64 takes MobileCLIP2-S0 twice as long as one in a batch of 4.
    """
    if images.device.type != "cpu" or not len(images):
        return model.encode_image(images)
    at_once = max(1, PIXELS_AT_ONCE // images[0, 0].numel())
    return torch.cat([model.encode_image(part) for part in images.split(at_once)])


def class_embeddings(model: DualEncoder, prompts: Mapping[str, Sequence[str]]) -> Tensor:
    """Return the normalised mean of each class's prompt embeddings: [C, D], float32, in the order of `prompts`."""
    texts = [text for group in prompts.values() for text in group]
    groups = encode_prompts(model, texts).split([len(group) for group in prompts.values()])
    return normalize(torch.stack([group.mean(dim=0) for group in groups]), dim=-1)


@dataclass(frozen=True)
class AgeTable:
    """Embeddings of the 175 gestational ages at each of S printed pixel spacings (``"0.42"``).

    `vectors` [S, 175, D] are means over templates of unit-length embeddings, not normalised again: a dot product is the
    mean over templates of cosines.
    """

    spacings: tuple[str, ...]
    vectors: Tensor

    def similarity(self, image: Tensor, spacings: Sequence[str]) -> Tensor:
        """Compare images [N, D] with all ages at each image's spacing: mean over templates of 100 * cosine, [N, 175].

        Float32 also under autocast. Raises KeyError for a spacing that is not in the table.
        """
        position = {spacing: row for row, spacing in enumerate(self.spacings)}
        rows = torch.tensor(
            [position[one] for one in spacings], dtype=torch.int64, device=self.vectors.device
        )
        parts = zip(image.float().split(IMAGES_AT_ONCE), rows.split(IMAGES_AT_ONCE), strict=True)
        with torch.autocast(image.device.type, enabled=False):
            return COSINE_SCALE * torch.cat(
                [torch.einsum("nd,nad->na", some, self.vectors[own]) for some, own in parts]
            )


def age_prompts(templates: Sequence[str], spacing: str) -> list[str]:
    """Fill templates (``{weeks}``, ``{days}``, ``{spacing}``) for one spacing: T * 175 prompts, by template."""
    ages = [divmod(age, 7) for age in AGES_DAYS]
    return [
        template.format(weeks=weeks, days=days, spacing=spacing)
        for template in templates
        for weeks, days in ages
    ]


def age_embeddings(
    model: DualEncoder, templates: Sequence[str], spacings: Iterable[str], progress: Progress | None = None
) -> AgeTable:
    """Embed the ages 14 weeks 0 days to 38 weeks 6 days at every distinct spacing.

    Args:
        model: The model.
        templates: T texts with ``{weeks}``, ``{days}`` and optionally ``{spacing}``.
        spacings: Printed spacings; the table holds each distinct one, sorted.
        progress: As for `encode_prompts`.
    """
    distinct = tuple(sorted(set(spacings)))
    prompts = [text for spacing in distinct for text in age_prompts(templates, spacing)]
    embedded = encode_prompts(model, prompts, progress=progress)
    shape = (len(distinct), len(templates), len(AGES_DAYS), -1)
    return AgeTable(distinct, embedded.reshape(shape).mean(dim=1))


def class_logits(image: Tensor, classes: Tensor) -> Tensor:
    """Compare images [N, D] with class vectors [C, D]: 100 * cosine, [N, C], float32 also under autocast."""
    with torch.autocast(image.device.type, enabled=False):
        return COSINE_SCALE * image.float() @ classes.T
