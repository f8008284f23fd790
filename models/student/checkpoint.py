"""A student from a checkpoint, in PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metrics import AGES_DAYS
from metrics.benchmarks import BENCHMARKS
from models.encoders.dual_encoder import DualEncoder
from models.student.base import Calibration, Floats, Picture, Student, batches
from models.student.saliency import grad_cam
from models.zero_shot import (
    COSINE_SCALE,
    age_embeddings,
    class_embeddings,
    encode_images,
    encode_prompts,
    without_tf32,
)


class CheckpointStudent(Student):
    """A dual encoder in float32 and eval mode, with class vectors made from prompts.

    Args:
        model: The model, on its device; it is put into eval mode.
        prompts: Content of a prompt file: ``biometry`` templates and, for each classification benchmark's
            `Benchmark.prompts`, class -> texts.
        calibration: That of the model and these prompts.
        own_classes: Benchmark -> class -> texts of benchmarks that bring their own prompts.
    """

    cosine_scale = COSINE_SCALE

    def __init__(
        self,
        model: DualEncoder,
        prompts: Mapping[str, Any],
        calibration: Calibration | None = None,
        own_classes: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType({}),
    ) -> None:
        self.model = model.float().eval()
        self.preprocessing = model.preprocessing
        self.templates: Sequence[str] = prompts["biometry"]
        self.calibration = calibration
        asked = {
            name: one.classes or prompts.get(one.prompts)
            for name, one in BENCHMARKS.items()
            if one.kind == "classification"
        }
        with without_tf32():
            self.classes = {
                name: (list(texts), class_embeddings(model, texts).cpu().numpy())
                for name, texts in (asked | dict(own_classes)).items()
                if texts
            }
        self._ages: dict[str, Floats] = {}

    @property
    def dimension(self) -> int:
        return self.model.embed_dim

    def pixels(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        """Normalise prepared images [N, S, S, 3] to the model's input [N, 3, S, S]."""
        mean, std = (
            torch.tensor(v)[:, None, None] for v in (self.preprocessing.mean, self.preprocessing.std)
        )
        image = (torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))) / 255 - mean) / std
        return image.to(next(self.model.parameters()).device)

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> Floats:
        with without_tf32():
            return encode_images(self.model, self.pixels(pixels)).float().cpu().numpy()

    def age_vectors(self, spacing: float) -> tuple[float, NDArray[np.int64], Floats]:
        """Embed the ages at a spacing as prompts print it; later calls reuse them."""
        printed = f"{spacing:.2f}"
        if printed not in self._ages:
            with without_tf32():
                table = age_embeddings(self.model, self.templates, [printed])
            self._ages[printed] = table.vectors[0].cpu().numpy()
        return float(printed), np.array(AGES_DAYS), self._ages[printed]

    def saliency(self, images: Iterable[Picture], prompt: str | None = None) -> Floats:
        if prompt is None and not self.classes:
            raise ValueError("saliency: the student's prompts have no classes; give a prompt")
        maps = []
        text = None if prompt is None else encode_prompts(self.model, [prompt])
        for batch in batches(images):
            prepared = self.pixels(np.stack([self.prepare(image) for image in batch]))
            with without_tf32():
                embedded = encode_images(self.model, prepared)
                own = text
                if own is None:
                    vectors = torch.from_numpy(next(iter(self.classes.values()))[1]).to(embedded)
                    own = vectors[(embedded @ vectors.T).argmax(dim=1)]
                maps.append(grad_cam(self.model, prepared, own).cpu().numpy())
        side = self.preprocessing.image_size
        return np.concatenate(maps) if maps else np.empty((0, side, side), np.float32)
