"""Tiny towers and batches on which the real module and trainer run in a second."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from models import DualEncoder, Preprocessing


class TinyEncoder(DualEncoder):
    """Two linear towers over 4x4 images and one-hot-like token counts."""

    def __init__(self, embed_dim: int = 8, seed: int = 0, dropout: float = 0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embed_dim = embed_dim
        self.preprocessing = Preprocessing(4, (0.5,) * 3, (0.5,) * 3, tokenizer="fetal", context_length=6)
        self.image = nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(48), nn.Dropout(dropout), nn.Linear(48, embed_dim)
        )
        self.text = nn.Embedding(50, embed_dim)
        self.scale = nn.Parameter(torch.tensor(2.0))
        with torch.no_grad():
            for parameter in (self.image[3].weight, self.text.weight):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            self.image[3].bias.zero_()

    def image_features(self, image):
        return self.image(image)

    def text_features(self, tokens):
        return self.text(tokens).mean(1)

    @property
    def log_logit_scale(self):
        return self.scale

    def init_args(self):
        return {"embed_dim": self.embed_dim}


class PairSet(torch.utils.data.Dataset):
    def __init__(self, size=24):
        generator = torch.Generator().manual_seed(7)
        self.images = torch.randn(size, 3, 4, 4, generator=generator)
        self.tokens = torch.randint(0, 50, (size, 6), generator=generator)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image, tokens = self.images[index], self.tokens[index]
        return {
            "student_image": image,
            "teacher_image": image,
            "student_tokens": tokens,
            "teacher_tokens": tokens,
            "caption_id": torch.tensor(index // 2),
        }


@pytest.fixture
def tiny_encoder():
    return TinyEncoder


@pytest.fixture
def pairs():
    return DataLoader(PairSet(), batch_size=8)
