"""Counts of parameters and multiply-accumulates, against counts by hand."""

from types import SimpleNamespace

import pytest
import torch

from models import TimmEncoder
from models.cost import image_cost
from tests.models.conftest import published


class OneAttention(torch.nn.Module):
    """Four patches of 8 x 8 pixels, and one layer of attention with two heads of four channels among them."""

    preprocessing = SimpleNamespace(image_size=16)

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 8, stride=8)
        self.projection = torch.nn.Linear(8, 24)
        self.text_tower = torch.nn.Linear(5, 5)

    def encode_image(self, image):
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        queries, keys, values = self.projection(tokens).reshape(1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values).mean(dim=(1, 2))


def test_one_layer_of_attention():
    cost = image_cost(OneAttention().eval())
    patches, projection = 4 * 8 * (3 * 8 * 8), 4 * 8 * 24
    similarities = mixtures = 2 * (4 * 4) * 4  # heads, pairs of tokens, channels of a head
    assert cost.gmacs * 1e9 == pytest.approx(patches + projection + similarities + mixtures)
    assert cost.image_parameters == (3 * 64 + 1) * 8 + (8 + 1) * 24


def test_a_vision_transformer():
    arguments = {
        "trunk": "vit_tiny_patch16_224", "trunk_args": {"depth": 2, "embed_dim": 32, "num_heads": 2},
        "embed_dim": 16, "image_size": 64, "context_length": 8,
        "text_width": 16, "text_layers": 1, "text_heads": 2,
    }  # fmt: skip
    tokens, width = 17, 32
    stem = 16 * width * 3 * 16 * 16
    weights = 2 * tokens * (3 * width**2 + width**2 + 8 * width**2)
    products = 2 * 2 * tokens**2 * width
    cost = image_cost(TimmEncoder(**arguments).eval())
    head = cost.gmacs * 1e9 - stem - weights - products
    assert head == pytest.approx(width * 16), "the projection to the embedding"


# Counters of layers with weights leave out the products of activations in FetalCLIP's 24 layers of 257 tokens and 1,024
# channels (docs/reproduce.md).
@pytest.mark.parametrize(
    ("name", "gmacs"), [("MobileCLIP2-S0", 2.39), ("FetalCLIP", 77.8 + 24 * 2 * 257**2 * 1024 / 1e9)]
)
def test_the_papers_towers_cost_what_other_counters_give(name, gmacs):
    with torch.device("meta"):
        cost = image_cost(published(name))
    assert cost.gmacs == pytest.approx(gmacs, rel=0.01)
