"""timm trunks with the small text tower."""

from __future__ import annotations

import pytest
import timm
import torch

from models import IMAGENET_MEAN, Preprocessing, TimmEncoder
from tests.models.conftest import FASTVIT, REPVIT, VIT, small


@pytest.mark.parametrize("trunk", [FASTVIT, REPVIT, VIT], ids=lambda trunk: trunk["trunk"])
def test_embeddings_have_unit_length_and_gradients(trunk) -> None:
    model = small(trunk)
    image, text = model(torch.randn(4, 3, 64, 64), model.tokenize(["brain", "abdomen", "femur", ""]))
    for embedding in (image, text):
        assert embedding.shape == (4, 24)
        torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(4))
    (model.logit_scale * image @ text.T).diagonal().sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert model.logit_scale.item() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("causal", [False, True])
def test_padding_does_not_change_a_text(causal) -> None:
    short, long = small(VIT, causal=causal), small(VIT, causal=causal, context_length=40)
    weights = short.state_dict()
    key = "text.positional_embedding"
    weights[key] = torch.cat([weights[key], torch.randn(24, 32)])
    long.load_state_dict(weights)
    texts = ["fetal brain at 24 weeks", "femur"]
    assert torch.allclose(
        short.encode_text(short.tokenize(texts)), long.encode_text(long.tokenize(texts)), atol=1e-6
    )


def test_causal_tower_differs_from_the_bidirectional_one() -> None:
    texts = ["fetal brain at 24 weeks"]
    one, other = small(VIT, text_layers=2), small(VIT, text_layers=2, causal=True)
    assert not torch.allclose(one.encode_text(one.tokenize(texts)), other.encode_text(other.tokenize(texts)))


def test_recipe_rebuilds_the_architecture_from_primitives(vit) -> None:
    recipe = vit.recipe()
    assert recipe["class_path"] == "models.TimmEncoder"
    twin = TimmEncoder(**recipe["init_args"])
    twin.load_state_dict(vit.state_dict())
    assert twin.preprocessing == vit.preprocessing
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(twin.eval().encode_image(image), vit.eval().encode_image(image))


def test_the_contract_follows_the_arguments() -> None:
    contract = small(VIT, interpolation="bilinear").preprocessing
    assert contract == Preprocessing(64, IMAGENET_MEAN, contract.std, "bilinear", "fetal", 16)


def test_trunk_weights_are_loaded_without_their_classifier(tmp_path) -> None:
    torch.manual_seed(3)
    source = timm.create_model(VIT["trunk"], **VIT["trunk_args"])
    torch.save(source.state_dict(), tmp_path / "trunk.pt")
    model = small(VIT, image_size=224, trunk_weights=str(tmp_path / "trunk.pt"))
    assert torch.equal(model.trunk.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
    assert "trunk_weights" not in model.init_args()


def test_weights_of_another_trunk_are_rejected_in_one_line(tmp_path) -> None:
    """timm itself would start from random weights."""
    path = tmp_path / "other.pt"
    torch.save(timm.create_model(REPVIT["trunk"], **REPVIT["trunk_args"]).state_dict(), path)
    with pytest.raises(
        ValueError, match=rf"{path} does not fit vit_tiny_patch16_224: \d+ missing: "
    ) as caught:
        small(VIT, trunk_weights=str(path))
    assert "\n" not in str(caught.value)


def test_arguments_that_timm_refuses_are_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"^resnet10t cannot be built with trunk_args [^\n]*unexpected keyword[^\n]*$"
    ):
        TimmEncoder(trunk="resnet10t", trunk_args={"chanels": [8, 16, 32, 64]}, image_size=32)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"stem_width": 2}, "RuntimeError: .*weight of size"),  # a first layer of no channels
        ({"layers": [1, 1]}, "AttributeError: .*layer3"),
        ({"in_chans": 1}, "RuntimeError: .*to have 1 channels"),
        ({"global_pool": ""}, r"has shape \(512, 1, 1\), not \(512,\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_trunk_that_cannot_read_an_image_is_refused_when_it_is_built(arguments, said) -> None:
    with pytest.raises(
        ValueError, match=rf"^resnet10t with trunk_args [^\n]* at 32 x 32 pixels[^\n]*{said}[^\n]*$"
    ):
        TimmEncoder(trunk="resnet10t", trunk_args=arguments, image_size=32)


def test_trying_a_trunk_leaves_it_as_it_was_built() -> None:
    torch.manual_seed(0)
    plain = timm.create_model("resnet10t", num_classes=0, channels=[8, 16, 24, 32])
    torch.manual_seed(0)
    trunk = small({"trunk": "resnet10t", "trunk_args": {"channels": [8, 16, 24, 32]}}).trunk
    assert trunk.training
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_the_logit_bias_is_optional_and_learned() -> None:
    assert small(VIT).logit_bias is None
    bias = small(VIT, init_logit_bias=-10).logit_bias
    assert bias.item() == -10
    assert bias.requires_grad


def test_clip_tokenizer_can_be_used() -> None:
    model = small(VIT, tokenizer="clip")
    assert model.text.token_embedding.num_embeddings == 49408
    tokens = model.tokenize(["fetal brain"])
    assert model.encode_text(tokens).shape == (1, 24)


def test_errors_name_what_is_wrong(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"timm has no model 'fastvit_x9'; close names: fastvit"):
        small({"trunk": "fastvit_x9"})
    with pytest.raises(ValueError, match=r"tokenizer 'hf:x' cannot be used here"):
        small(VIT, tokenizer="hf:x")
    with pytest.raises(FileNotFoundError, match=r"none.pt: no such file"):
        small(VIT, trunk_weights=str(tmp_path / "none.pt"))
