"""Shortened text towers equal open_clip's complete ones in values and gradients."""

from __future__ import annotations

import copy

import pytest
import torch

from models import OpenCLIPEncoder, TransformersEncoder, freeze, zero_shot
from models.text.end_token import end_token_features, end_token_tower, up_to_longest_end
from tests.models.conftest import VIT, published, small
from tests.models.encoders.test_transformers_encoder import save

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 30, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
TEXTS = ["brain", "the fetal head at 24 weeks and 3 days", "", "femur " * 60]


def encoder(**text) -> OpenCLIPEncoder:
    architecture = copy.deepcopy(SMALL)
    architecture["text_cfg"].update(text)
    custom = {"custom_text": True} if "pool_type" in text or "no_causal_mask" in text else {}
    torch.manual_seed(0)
    model = OpenCLIPEncoder("small", configuration={"model_cfg": architecture | custom}).double()
    for name, parameter in model.named_parameters():
        if name.endswith("token_embedding.weight"):
            torch.nn.init.normal_(parameter)  # the usual start is so small that texts hardly differ
    return model


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"pool_type": "argmax"},
        {"pool_type": "eos", "eos_id": 49407},
        {"no_causal_mask": True},
        {"no_causal_mask": True, "ls_init_value": 0.5, "layers": 1},
    ],
    ids=["CLIP", "argmax", "eos", "sees padding", "one scaled block"],
)
@pytest.mark.parametrize("count", [3, 4])
def test_values_and_gradients_are_those_of_the_whole_tower(text, count) -> None:
    model = encoder(**text)
    assert end_token_tower(model.model) is not None
    tokens = model.tokenize(TEXTS[:count])
    whole, cut = model.model.encode_text(tokens), model.text_features(tokens)
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-12)
    weights = [p for name, p in model.named_parameters() if "visual" not in name and "logit" not in name]
    for ours, theirs in zip(
        torch.autograd.grad(cut.square().sum(), weights),
        torch.autograd.grad(whole.square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_tower_with_masked_padding_is_cut_exactly(causal, layers) -> None:
    model = small(VIT, text_layers=layers).double()
    tower = model.text
    tower.attn_mask = tower.build_causal_mask().double() if causal else None
    tokens = model.tokenize(["fetal brain at 24 weeks and 3 days", "femur", ""])
    whole, cut = tower(tokens), end_token_features(tower, tokens)
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-12)
    weights = list(tower.parameters())
    ours, theirs = (torch.autograd.grad(one.square().sum(), weights) for one in (cut, whole))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    rows: list[int] = []
    tower.transformer.resblocks[-1].mlp.register_forward_pre_hook(
        lambda _, args: rows.append(args[0].shape[1])
    )
    model.text_features(tokens)
    assert rows == [1], "the last block's MLP sees the end tokens alone"


def test_only_the_used_columns_pass_the_tower() -> None:
    model = encoder()
    brain, both = model.tokenize(["brain"]), model.tokenize(["brain", "a fetal brain"])
    first, last = model.model.transformer.resblocks
    lengths: list[int] = []
    first.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    last.mlp.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    model.text_features(brain)
    model.text_features(both)
    assert lengths == [3, 1, 5, 1], "the last block's MLP sees the end tokens alone"


def test_a_tower_with_visible_padding_is_not_cut() -> None:
    model = encoder(no_causal_mask=True)
    lengths: list[int] = []
    first = model.model.text.transformer.resblocks[0]
    first.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    short, long = model.tokenize(["brain"]), model.tokenize(["brain", "femur " * 60])
    torch.testing.assert_close(model.text_features(short)[0], model.text_features(long)[0])
    assert lengths == [30, 30]


def test_the_published_towers_are_supported_and_other_poolings_are_not() -> None:
    for name, masked in (("MobileCLIP2-S0", False), ("FetalCLIP", True)):
        tower = end_token_tower(published(name).model)
        assert (tower.attn_mask is not None) is masked
    for other in ({"pool_type": "last"}, {"pool_type": "argmax", "embed_cls": True}):
        assert end_token_tower(encoder(**other).model) is None


def test_the_prompt_batch_size_depends_on_the_computed_columns(monkeypatch) -> None:
    monkeypatch.setattr(zero_shot, "ACTIVATIONS_AT_ONCE", 16 * 90)
    causal, whole = encoder(), encoder(no_causal_mask=True)
    assert zero_shot.prompts_at_once(causal, "brain") == 90 // 3
    assert zero_shot.prompts_at_once(freeze(causal), "a fetal brain") == 90 // 5
    assert zero_shot.prompts_at_once(whole, "brain") == 4, "30 columns: the least"


def test_a_text_without_end_token_keeps_the_pooled_position() -> None:
    tokens = torch.tensor([[5, 9, 3, 0, 0], [5, 3, 0, 0, 0]])
    assert up_to_longest_end(tokens).shape == (2, 2)  # the largest id stands second
    assert up_to_longest_end(tokens, 3).shape == (2, 3)
    assert up_to_longest_end(tokens, 7).shape == (2, 1)  # no end anywhere: the first place is read
    assert up_to_longest_end(tokens[:0]).shape == (0, 5)


@pytest.mark.parametrize("end_id", [2, 3])
def test_transformers_clip_is_cut_exactly(tmp_path, end_id) -> None:
    save("clip", tmp_path)
    model = TransformersEncoder(str(tmp_path)).double()
    model.model.config.text_config.eos_token_id = end_id
    model.model.text_model.eos_token_id = end_id
    tokens = torch.tensor([[2, 4, 5, 3, 0, 0, 0, 0, 0, 0], [2, 4, 3, 0, 0, 0, 0, 0, 0, 0]])
    whole = model.model.get_text_features(input_ids=tokens)
    whole = whole if isinstance(whole, torch.Tensor) else whole.pooler_output
    lengths: list[int] = []
    model.model.text_model.embeddings.register_forward_pre_hook(
        lambda _, __, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    torch.testing.assert_close(model.text_features(tokens), whole, rtol=1e-12, atol=1e-12)
    assert lengths == [4 if end_id == 3 else 3]


def test_an_exported_graph_keeps_the_full_length() -> None:
    model = encoder().float().eval()
    tokens = model.tokenize(["brain"])

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens):
            return self.model.text_features(tokens)

    program = torch.export.export(Text(), (tokens,)).module()
    longer = model.tokenize(["the fetal head at 24 weeks and 3 days"])
    torch.testing.assert_close(program(longer), model.text_features(longer), rtol=1e-4, atol=1e-5)
