"""Converters on randomly initialised models of the real sizes, against independent inverses."""

from __future__ import annotations

import open_clip
import pytest
import torch
from open_clip.model import CustomTextCLIP
from torch import Tensor, nn

from models import OpenCLIPEncoder, from_checkpoint
from models.checkpoints.layouts import RELEASED_STUDENT, detect_layout
from models.open_clip_config import read_config
from tests.models.checkpoints.apple_layout import apple_text_features, to_apple, to_released_student
from tests.models.conftest import published
from tests.models.encoders.test_open_clip_encoder import SMALL as SMALL_ARCHITECTURE
from tests.models.test_loading import save as saved_student

SMALL = {"model_cfg": SMALL_ARCHITECTURE}
TEXTS = ["Ultrasound of the fetal brain at 24 weeks and 3 days.", "femur"]


def scattered(model: OpenCLIPEncoder) -> OpenCLIPEncoder:
    """The model with every tensor away from its initial value, where errors could hide."""
    with torch.no_grad():
        for name, value in model.model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "gamma", ".bias")):
                value.normal_(std=0.1)
        model.model.visual.trunk.head.fc.bias.zero_()  # Apple's projection has none
    return model.eval()


SHORT = read_config("MobileCLIP2-S0")
SHORT["model_cfg"]["text_cfg"] |= {"context_length": 77, "width": 32, "heads": 2, "layers": 2}


@pytest.fixture(scope="module")
def short() -> OpenCLIPEncoder:
    """MobileCLIP2-S0 with a small text tower, at Apple's context of 77."""
    torch.manual_seed(0)
    return scattered(OpenCLIPEncoder("short", configuration=SHORT))


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))


def save(state: dict, path) -> str:
    torch.save(state, path)
    return str(path)


def assert_same(model: nn.Module, original: OpenCLIPEncoder, image: Tensor, atol: float) -> None:
    model.eval()
    tokens = original.tokenize(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(image), original.encode_image(image), atol=atol, rtol=0)
        torch.testing.assert_close(model.encode_text(tokens), original.encode_text(tokens), atol=atol, rtol=0)


def test_apples_weights_by_path_give_equal_embeddings_and_apples_contract(image, tmp_path) -> None:
    torch.manual_seed(0)
    full = scattered(OpenCLIPEncoder("MobileCLIP2-S0", context_length=77))  # in its real size
    state = {f"module.{name}": value for name, value in to_apple(full.model.state_dict()).items()}
    path = save(state, tmp_path / "mobileclip2_s0.pt")
    model = from_checkpoint(path)
    assert_same(model, full, image, atol=1e-5)
    contract = model.preprocessing
    assert (contract.mean, contract.std) == ((0, 0, 0), (1, 1, 1))
    assert (contract.interpolation, contract.context_length, contract.image_size) == ("bilinear", 77, 256)
    untrained = from_checkpoint(path, untrained=True)  # the control `random-teacher`
    assert untrained.preprocessing == contract
    assert untrained.recipe() == model.recipe()
    assert not torch.equal(untrained.encode_text(tokens := model.tokenize(TEXTS)), model.encode_text(tokens))


def test_resized_text_tower_equals_apples_own_at_117_tokens(short, tmp_path) -> None:
    state = to_apple(short.model.state_dict())
    path = save(state, tmp_path / "s0.pt")
    model = OpenCLIPEncoder("short", weights=path, configuration=SHORT, context_length=117).eval()
    assert model.preprocessing.context_length == 117
    tokens = model.tokenize(TEXTS)
    with torch.no_grad():
        features = apple_text_features(state, tokens, layers=2, heads=2)
        expected = nn.functional.normalize(features, dim=-1)
        torch.testing.assert_close(model.encode_text(tokens), expected, atol=1e-5, rtol=0)


def test_the_released_students_layout_gives_equal_embeddings_also_under_wrappers(
    short, image, tmp_path
) -> None:
    state = to_released_student(short.model.state_dict())
    assert detect_layout(state) == RELEASED_STUDENT
    state = {f"_orig_mod.module.model.{name}": value for name, value in state.items()}
    path = save({"state_dict": state}, tmp_path / "mobile_fetal_clip_weights.pt")
    student = OpenCLIPEncoder("short", weights=path, configuration=SHORT)
    assert_same(student, short, image, atol=2e-7)
    assert student.preprocessing.mean == (0.485, 0.456, 0.406)


def test_the_other_spelling_of_apples_projection(short, image, tmp_path) -> None:
    path = save(to_apple(short.model.state_dict(), head="classifier.proj"), tmp_path / "s0.pt")
    assert_same(OpenCLIPEncoder("short", weights=path, configuration=SHORT), short, image, atol=1e-5)


def test_a_checkpoint_of_another_tower_names_both_in_one_line(vit, tmp_path) -> None:
    shapes = {name: value.shape for name, value in published("MobileCLIP2-S0").model.state_dict().items()}
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    teacher = save({"state_dict": state}, tmp_path / "apple.pt")  # names and shapes matter alone
    ours = saved_student(vit, tmp_path / "best.ckpt")
    for path, held in ((teacher, "MobileCLIP2-S0"), (ours, "vit_tiny_patch16_224")):
        with pytest.raises(
            ValueError, match=rf"^{path} does not fit small: .*; the file holds {held}$"
        ) as caught:
            OpenCLIPEncoder("small", weights=path, configuration=SMALL)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1500


def test_an_unmapped_name_is_listed_unless_strict_is_false(short, image, tmp_path) -> None:
    state = to_apple(short.model.state_dict())
    state["text_encoder.transformer.0.surprise.weight"] = torch.zeros(1)
    state["text_encoder.extra"] = torch.zeros(1)
    state["image_encoder.model.network.7.0.surprise"] = torch.zeros(1)
    path = save(state, tmp_path / "odd.pt")
    surprise = "image_encoder.model.network.7.0.surprise"
    listed = f"3 unexpected: {surprise}, text_encoder.transformer.0.surprise.weight, text_encoder.extra$"
    with pytest.raises(ValueError, match=listed):
        OpenCLIPEncoder("short", weights=path, configuration=SHORT)
    with pytest.warns(UserWarning, match=listed):
        model = OpenCLIPEncoder("short", weights=path, configuration=SHORT, strict=False)
    assert_same(model, short, image, atol=1e-5)


def test_an_unmapped_image_name_of_the_release_is_named_as_in_the_file(short, tmp_path) -> None:
    state = to_released_student(short.model.state_dict())
    state["visual.trunk.network.0.0.surprise"] = torch.zeros(1)
    path = save(state, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"1 unexpected: visual.trunk.network.0.0.surprise$"):
        OpenCLIPEncoder("short", weights=path, configuration=SHORT)


def test_the_student_configuration_differs_from_open_clips_in_the_context_only() -> None:
    assert read_config("MobileCLIP-S1")["preprocess_cfg"] == {
        "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear",
    }  # fmt: skip
    assert read_config("ViT-L-14")["preprocess_cfg"] == {}, (
        "its published weights were trained with different ones"
    )
    ours, theirs = read_config("MobileCLIP2-S0")["model_cfg"], open_clip.get_model_config("MobileCLIP2-S0")
    theirs["text_cfg"]["context_length"] = 117
    assert ours == theirs


def test_text_tower_names_of_plain_clip_are_converted(tmp_path) -> None:
    """Checkpoints of open_clip's `CLIP` class name the text tower at the top level."""
    plain = OpenCLIPEncoder("small", configuration=SMALL)
    path = save({"state_dict": plain.model.state_dict()}, tmp_path / "plain.pt")
    custom = {"model_cfg": {**SMALL_ARCHITECTURE, "custom_text": True}}
    model = OpenCLIPEncoder("small", weights=path, configuration=custom)
    assert isinstance(model.model, CustomTextCLIP)
    tokens = model.tokenize(TEXTS)
    assert torch.allclose(model.encode_text(tokens), plain.encode_text(tokens))


def test_a_checkpoint_of_this_project_can_be_loaded_as_weights(short, image, tmp_path) -> None:
    """A Lightning checkpoint of a student that is an `OpenCLIPEncoder`."""
    state = {f"student.{name}": value for name, value in short.state_dict().items()}
    recipe = {"recipe": short.recipe(), "preprocessing": short.preprocessing.to_dict()}
    path = save(
        {"state_dict": {**state, "loss.bias": torch.zeros(1)}, "student": recipe, "epoch": 1},
        tmp_path / "best.ckpt",
    )
    assert_same(OpenCLIPEncoder("short", weights=path, configuration=SHORT), short, image, atol=0)
