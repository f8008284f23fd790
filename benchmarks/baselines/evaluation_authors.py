"""Baseline: zero-shot evaluation as the authors describe it; nothing is shared between images.

Written from the description, not from their code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from datamodules.pairs.image_reading import open_image
from models import DualEncoder, OpenCLIPEncoder, Preprocessing

BATCH = 16


@torch.no_grad()
def encode_prompts(model: DualEncoder, prompts: Sequence[str]) -> Tensor:
    """Encode all prompts of one template in one batch over the whole context, [N, D]; for HC18 again at every image."""
    tokens = model.tokenize(list(prompts))
    whole = model.model.encode_text if isinstance(model, OpenCLIPEncoder) else model.text_features
    return torch.nn.functional.normalize(whole(tokens), dim=-1)


def load_image(path: str, preprocessing: Preprocessing) -> Tensor:
    """Decode, pad to a square and resize with Pillow: [3, S, S]."""
    image = open_image(path).convert("RGB")
    side = max(image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    size = preprocessing.image_size
    pixels = np.array(square.resize((size, size), Image.Resampling.BICUBIC))
    scaled = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return v2.functional.normalize(scaled, list(preprocessing.mean), list(preprocessing.std))


@torch.no_grad()
def embed_images(model: DualEncoder, paths: Sequence[str]) -> Tensor:
    """Decode and embed serially in batches of 16, [N, D]."""
    parts = []
    for start in range(0, len(paths), BATCH):
        images = [load_image(path, model.preprocessing) for path in paths[start : start + BATCH]]
        parts.append(model.encode_image(torch.stack(images)))
    return torch.cat(parts)
