"""Loading by path restores the saved model and its preprocessing."""

from __future__ import annotations

import warnings

import pytest
import torch
from jsonargparse import ArgumentParser

from models import DualEncoder, Preprocessing, TimmEncoder, build, from_checkpoint
from tests.models.conftest import REPVIT, small


class Holder:
    def __init__(self, student: DualEncoder, teacher: DualEncoder | None = None) -> None:
        self.student, self.teacher = student, teacher


def save(model: TimmEncoder, path, **changes) -> str:
    """Write a checkpoint as Lightning does: the weights of the student and of the loss."""
    content = {
        "epoch": 3,
        "state_dict": {f"student.{name}": value for name, value in model.state_dict().items()}
        | {"loss.weight": torch.zeros(1)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}],
        "student": {"recipe": model.recipe(), "preprocessing": model.preprocessing.to_dict()},
    }
    torch.save(content | changes, path)
    return str(path)


def test_reload_by_path_restores_weights_and_preprocessing(tmp_path) -> None:
    contract = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear"}
    model = small(REPVIT, **contract)
    model.encode_image(torch.randn(4, 3, 64, 64))
    twin = from_checkpoint(save(model, tmp_path / "best.ckpt"))
    assert twin.preprocessing == Preprocessing(64, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", "fetal", 16)
    image, texts = torch.randn(2, 3, 64, 64), ["brain at 20 weeks", "femur"]
    model.eval(), twin.eval()
    assert torch.equal(twin.encode_image(image), model.encode_image(image))
    assert torch.equal(twin.encode_text(twin.tokenize(texts)), model.encode_text(model.tokenize(texts)))
    assert torch.equal(twin.logit_scale, model.logit_scale)


def test_the_checkpoints_contract_overrides_the_recipes(vit, tmp_path) -> None:
    changed = {**vit.preprocessing.to_dict(), "mean": [0.9, 0.9, 0.9]}
    path = save(vit, tmp_path / "a.ckpt", student={"recipe": vit.recipe(), "preprocessing": changed})
    assert from_checkpoint(path).preprocessing.mean == (0.9, 0.9, 0.9)


def test_a_missing_weight_is_an_error(vit, tmp_path) -> None:
    state = {f"student.{name}": value for name, value in vit.state_dict().items()}
    del state["student.scale"]
    with pytest.raises(ValueError, match=r"a.ckpt does not fit TimmEncoder: 1 missing: scale"):
        from_checkpoint(save(vit, tmp_path / "a.ckpt", state_dict=state))


def test_an_extra_weight_is_named_as_in_the_file(vit, tmp_path) -> None:
    state = {f"student.{name}": value for name, value in vit.state_dict().items()}
    state["student.extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"a.ckpt does not fit TimmEncoder: 1 unexpected: student\.extra$"):
        from_checkpoint(save(vit, tmp_path / "a.ckpt", state_dict=state))


def test_yaml_class_path_accepts_the_function_for_a_dual_encoder(vit, tmp_path) -> None:
    path = save(vit, tmp_path / "a.ckpt")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Holder, "model")
    config = parser.parse_object(
        {
            "model": {
                "student": {"class_path": "models.TimmEncoder", "init_args": vit.init_args()},
                "teacher": {"class_path": "models.from_checkpoint", "init_args": {"path": path}},
            }
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the deprecated name also works in the older versions we allow
        holder = parser.instantiate_classes(config).model
    assert isinstance(holder.student, TimmEncoder)
    assert torch.equal(holder.teacher.scale, vit.scale)
    assert holder.student.preprocessing == holder.teacher.preprocessing == vit.preprocessing


@pytest.mark.parametrize(
    ("class_path", "message"),
    [
        ("models.from_checkpoint", r"'models.from_checkpoint' is not a subclass of models.DualEncoder"),
        ("models.Preprocessing", r"'models.Preprocessing' is not a subclass of models.DualEncoder"),
        ("models.nowhere.Encoder", r"cannot import 'models.nowhere.Encoder'"),
        ("models.Nothing", r"cannot import 'models.Nothing'"),
        ("models", r"cannot import 'models'"),
    ],
)
def test_recipes_name_dual_encoders_only(class_path, message) -> None:
    with pytest.raises(ValueError, match=message):
        build({"class_path": class_path, "init_args": {}})


def test_a_recipe_with_unknown_arguments_is_rejected(vit) -> None:
    recipe = vit.recipe()
    recipe["init_args"]["colour"] = "grey"
    with pytest.raises(ValueError, match=r"models.TimmEncoder rejects its arguments .*colour"):
        build(recipe)


def test_the_error_of_an_unknown_file_names_the_remedy(tmp_path) -> None:
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"layout unknown.*load it with models.OpenCLIPEncoder"):
        from_checkpoint(str(tmp_path / "other.pt"))
