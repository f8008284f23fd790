"""CLIP and SigLIP models of transformers, saved to a folder."""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import normalize
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from experiments.commands.inspect import main
from models import Preprocessing, TransformersEncoder, build, from_checkpoint

TEXT = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "vocab_size": 8,
    "max_position_embeddings": 10,
    "eos_token_id": 3,
    "bos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 16,
}
CONTRACT = {
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "resample": 2,
}


def save(kind: str, folder) -> CLIPModel | SiglipModel:
    """Write a model's folder and return the model, which is the caller's own."""
    model, files = saved(kind)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return copy.deepcopy(model)


@functools.cache
def saved(kind: str) -> tuple[CLIPModel | SiglipModel, dict[str, bytes]]:
    with tempfile.TemporaryDirectory() as name:
        model = build_in(Path(name), kind)
        return model, {path.name: path.read_bytes() for path in Path(name).iterdir()}


def build_in(folder: Path, kind: str) -> CLIPModel | SiglipModel:
    torch.manual_seed(0)
    if kind == "clip":
        model = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12))
    else:
        model = SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION))
    model.save_pretrained(folder)
    vocabulary = {"[pad]": 0, "[unk]": 1, "[start]": 2, "[end]": 3, "fetal": 4, "brain": 5}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[start] $A [end]", special_tokens=[("[start]", 2), ("[end]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[pad]", unk_token="[unk]", eos_token="[end]"
    ).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(CONTRACT))
    return model.eval()


@pytest.mark.parametrize(("kind", "dimension"), [("clip", 12), ("siglip", 16)])
def test_embeddings_equal_the_librarys_own(kind, dimension, tmp_path) -> None:
    reference = save(kind, tmp_path).double()
    encoder = from_checkpoint(str(tmp_path)).eval().double()
    assert isinstance(encoder, TransformersEncoder)
    assert encoder.embed_dim == dimension
    image, tokens = torch.randn(2, 3, 32, 32).double(), encoder.tokenize(["fetal brain", "brain"])
    with torch.no_grad():
        outputs = reference(input_ids=tokens, pixel_values=image)
        ours = encoder(image, tokens)
        scaled = encoder.logit_scale * ours[0] @ ours[1].T
        logits = scaled if encoder.logit_bias is None else scaled + encoder.logit_bias
    assert torch.allclose(ours[0], normalize(outputs.image_embeds, dim=-1), atol=1e-12)
    assert torch.allclose(ours[1], normalize(outputs.text_embeds, dim=-1), atol=1e-12)
    assert torch.allclose(logits, outputs.logits_per_image, atol=1e-10)
    assert encoder.logit_scale.shape == ()


def test_a_student_of_a_folder_trains_in_training_mode_and_a_control_has_random_weights(tmp_path) -> None:
    trained = save("clip", tmp_path).state_dict()["visual_projection.weight"]
    loaded, random = (from_checkpoint(str(tmp_path), untrained=untrained) for untrained in (False, True))
    assert all(module.training for model in (loaded, random) for module in model.modules())
    assert torch.equal(loaded.model.visual_projection.weight, trained)
    assert not torch.allclose(random.model.visual_projection.weight, trained)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_folder_of_half_precision_gives_float32_with_and_without_its_weights(kind, tmp_path) -> None:
    save(kind, tmp_path).half().save_pretrained(tmp_path)
    for untrained in (False, True):
        model = from_checkpoint(str(tmp_path), untrained=untrained)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_contract_is_read_from_the_folder(tmp_path) -> None:
    save("clip", tmp_path)
    expected = Preprocessing(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", f"hf:{tmp_path}", 10)
    encoder = TransformersEncoder(str(tmp_path))
    assert encoder.preprocessing == expected
    twin = build(encoder.recipe())
    twin.load_state_dict(encoder.state_dict())
    assert twin.preprocessing == expected


@pytest.mark.parametrize(
    ("kind", "processor", "images", "size"),
    [
        ("clip", CLIPProcessor, CLIPImageProcessor, {"size": {"shortest_edge": 32}, "crop_size": 32}),
        ("siglip", SiglipProcessor, SiglipImageProcessor, {"size": {"height": 32, "width": 32}}),
    ],
)
def test_a_folder_that_the_processor_saved(kind, processor, images, size, tmp_path) -> None:
    """transformers 5 nests the image processor's settings in the processor's."""
    save(kind, tmp_path)
    older = tmp_path / "preprocessor_config.json"
    older.unlink()
    prepare = images(**size, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    processor(image_processor=prepare, tokenizer=tokenizer).save_pretrained(tmp_path)
    expected = Preprocessing(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", f"hf:{tmp_path}", 10)
    encoder = TransformersEncoder(str(tmp_path))
    assert encoder.preprocessing == expected
    assert encoder.encode_text(encoder.tokenize(["fetal brain"])).shape == (1, encoder.embed_dim)
    older.write_text(json.dumps({**CONTRACT, "image_mean": [0.9, 0.9, 0.9]}))
    theirs = images.from_pretrained(tmp_path, local_files_only=True)
    mean = TransformersEncoder(str(tmp_path)).preprocessing.mean
    assert mean == tuple(theirs.image_mean), "of two files, the library's choice"


def test_without_image_settings_both_files_are_named(tmp_path) -> None:
    save("clip", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    with pytest.raises(
        FileNotFoundError, match=r"no preprocessor_config\.json, and no image_processor in a proc"
    ):
        TransformersEncoder(str(tmp_path))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_folder_without_tokenizer_files_is_rejected_in_one_line(kind, tmp_path) -> None:
    save(kind, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    files = r"tokenizer\.json, or vocab\.json and merges\.txt, or spiece\.model"
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}: no tokenizer files \({files}") as caught:
        TransformersEncoder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_errors_of_unusable_folders(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config.json: no such file; give a folder"):
        TransformersEncoder(str(tmp_path))
    save("clip", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**CONTRACT, "resample": 0}))
    with pytest.raises(ValueError, match=r"resample 0 is neither bilinear"):
        TransformersEncoder(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no .safetensors weights"):
        TransformersEncoder(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"model type 'bert' is not supported, only clip and siglip"):
        TransformersEncoder(str(tmp_path))


def change(path, **values):
    """Change settings in a JSON file; ``a__b`` is the key b in a."""
    content = json.loads(path.read_text())
    for name, value in values.items():
        *outer, last = name.split("__")
        place = content
        for key in outer:
            place = place[key]
        place[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("config", {"vision_config__num_hidden_layers": 3}, r"do not fit config.json: 16 missing: vision_model"),
        ("config", {"text_config__num_hidden_layers": 1}, r"do not fit config.json: 16 unexpected: text_model"),
        ("config", {"projection_dim": 13}, r"2 of another shape: text_projection.weight \[12, 16\] for \[13, 16\]"),
        ("preprocessor_config", {"image_mean": None}, "settings lack image_mean; save them"),
        ("preprocessor_config", {"crop_size": {"height": 32, "width": 16}}, "crop_size .* is not the model's 32"),
        ("preprocessor_config", {"crop_size": 64}, "crop_size 64 of the image processor is not the model's 32"),
        ("preprocessor_config", {"do_normalize": False}, "only pixels divided by 255 and normalised are"),
        ("preprocessor_config", {"rescale_factor": 1 / 127.5}, "only pixels divided by 255 and normalised are"),
    ],
)  # fmt: skip
def test_what_a_folder_says_and_its_weights_must_fit(file, values, words, tmp_path) -> None:
    save("clip", tmp_path)
    change(tmp_path / f"{file}.json", **values)
    with pytest.raises(ValueError, match=rf"^{tmp_path}: .*{words}[^\n]*$"):
        TransformersEncoder(str(tmp_path))


def test_null_is_the_librarys_default_and_one_number_holds_for_all_channels(tmp_path) -> None:
    save("clip", tmp_path)
    whole = {"height": 32, "width": 32, "longest_edge": None}
    nulls = dict.fromkeys(("do_rescale", "rescale_factor", "do_normalize"))
    change(tmp_path / "preprocessor_config.json", **nulls, image_mean=0.5, crop_size=whole)
    preprocessing = TransformersEncoder(str(tmp_path)).preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.5, 0.5, 0.5), (0.4, 0.5, 0.6))


def test_a_tokenizer_beyond_the_vocabulary_is_rejected(tmp_path) -> None:
    save("clip", tmp_path)
    added = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    added.add_tokens(["femur", "heart", "cervix"])
    added.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the tokenizer has ids up to 8, the model 8 tokens; save"):
        TransformersEncoder(str(tmp_path))


@pytest.mark.parametrize(("file", "content"), [("config.json", b"[]"), ("config.json", b"{")])
def test_damaged_files_are_named_in_one_line(file, content, tmp_path) -> None:
    save("clip", tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{tmp_path / file}: cannot be read \([^\n]*save the model again"):
        TransformersEncoder(str(tmp_path))


def test_cut_weights_are_named_in_one_line(tmp_path) -> None:
    save("clip", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"^{tmp_path}: cannot be read \([^\n]*save the model again"):
        TransformersEncoder(str(tmp_path))


def test_inspect_describes_a_folder(tmp_path, capsys) -> None:
    save("siglip", tmp_path)
    main([str(tmp_path)])
    printed = capsys.readouterr().out
    assert "SiglipModel" in printed
    assert "class_path: models.TransformersEncoder" in printed
