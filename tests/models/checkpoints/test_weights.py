"""Reading weights runs no code and accounts for every name."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from models import load_into, load_weights
from models.checkpoints.weights import flatten, read_entry, write_entry

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


class Malicious:
    """Creates a file as soon as it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def assert_state(state: dict) -> None:
    assert set(state) == set(STATE)
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    "content",
    [STATE, {"state_dict": STATE, "epoch": 3}, {"model": STATE}, {"model_state_dict": STATE}],
    ids=["bare", "state_dict", "model", "model_state_dict"],
)
def test_envelopes_are_removed(content, tmp_path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    assert_state(load_weights(tmp_path / "weights.pt"))


def test_a_file_that_was_written_on_a_gpu_is_read_to_the_cpu(tmp_path, monkeypatch) -> None:
    path = tmp_path / "best.ckpt"
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        torch.save({"state_dict": STATE, "answers": {"coverage": 0.9}}, path)
    assert_state(load_weights(path))
    assert {tensor.device.type for tensor in load_weights(path).values()} == {"cpu"}
    assert read_entry(path, "answers") == {"coverage": 0.9}


def test_an_entry_replaces_the_one_of_its_name_and_only_a_dictionary_is_one(tmp_path) -> None:
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": STATE, "answers": {"coverage": 0.5, "old": 1}, "epoch": 3}, path)
    write_entry(path, "answers", {"coverage": 0.9})
    assert read_entry(path, "answers") == {"coverage": 0.9}
    assert read_entry(path, "epoch") is None
    assert_state(load_weights(path))


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.scale = nn.Linear(2, 2), nn.Parameter(torch.ones(()))


def held(attribute: str, inner: nn.Module) -> nn.Module:
    """Wrap a module as an attribute: its tensors get the attribute's name before theirs."""
    holder = nn.Module()
    holder.add_module(attribute, inner)
    return holder


def test_names_of_the_wrappers_are_those_of_torch() -> None:
    for wrapper, attribute in ((torch.compile, "_orig_mod"), (nn.DataParallel, "module")):
        inner = Inner()
        assert set(wrapper(inner).state_dict()) == set(held(attribute, inner).state_dict())


@given(st.lists(st.sampled_from(["_orig_mod", "module", "model"]), max_size=6), st.booleans())
def test_prefixes_of_any_wrappers_are_removed(wrappers, compiled_inside) -> None:
    inner = Inner()
    names, weight = set(inner.state_dict()), inner.text.weight
    if compiled_inside:
        inner.text = held("_orig_mod", inner.text)
    state = flatten(
        functools.reduce(lambda module, name: held(name, module), wrappers, inner).state_dict(), "file"
    )
    assert set(state) == names
    assert torch.equal(state["text.weight"], weight)


def test_a_weight_with_and_without_a_prefix_is_rejected() -> None:
    state = {"module.weight": torch.zeros(2), "model.weight": torch.ones(2), "bias": torch.zeros(1)}
    with pytest.raises(
        ValueError, match=r"^file: these names are the same .*: module\.weight, model\.weight$"
    ):
        flatten(state, "file")


def test_safetensors(tmp_path) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    assert_state(load_weights(str(tmp_path / "weights.safetensors")))


@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_a_malicious_pickle_is_rejected_and_not_run(save, tmp_path) -> None:
    target, path = tmp_path / "owned", tmp_path / "weights.pt"
    content = {"state_dict": STATE, "extra": Malicious(target)}
    if save == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=r"weights.pt: refused, ") as caught:
        load_weights(path)
    assert not target.exists()
    assert "\n" not in str(caught.value)
    pickle.loads(pickle.dumps(Malicious(target)))
    assert target.exists(), "the attack itself must work, or this test proves nothing"


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"x" * 99, b"", b"PK\x03\x04 cut"], ids=["text", "empty", "cut"])
def test_junk_is_named_in_one_line(name, content, tmp_path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: damaged \(") as caught:
        load_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_file_and_missing_tensors(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.pt: no such file"):
        load_weights(tmp_path / "none.pt")
    torch.save({"epoch": 1, "note": "empty"}, tmp_path / "empty.pt")
    with pytest.raises(ValueError, match=r"holds no tensors; its keys are epoch, note"):
        load_weights(tmp_path / "empty.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"holds a list, not a dictionary"):
        load_weights(tmp_path / "list.pt")


def test_every_kind_of_mismatch_is_counted_and_named_in_one_line() -> None:
    state = {"weight": torch.zeros(2, 4), **{f"extra{i}": torch.zeros(1) for i in range(300)}}
    with pytest.raises(ValueError) as caught:
        load_into(nn.Linear(3, 2), state, "file.pt")
    assert str(caught.value) == (
        "file.pt does not fit Linear: 1 missing: bias; 300 unexpected: extra0, extra1, extra2, extra3, extra4, ...; "
        "1 of another shape: weight [2, 4] for [2, 3]"
    )


def test_names_are_those_of_the_file() -> None:
    state = {"weight": torch.zeros(1, 1), "b": torch.zeros(1), "c": torch.zeros(1)}
    with pytest.raises(
        ValueError, match=r"2 unexpected: theirs\.b, c; 1 of another shape: theirs\.w \[1, 1\]"
    ):
        load_into(nn.Linear(3, 2), state, "file.pt", names={"b": "theirs.b", "weight": "theirs.w"})


def test_without_strict_what_fits_is_loaded_and_the_rest_warned_of() -> None:
    model = nn.Linear(3, 2)
    with pytest.warns(UserWarning, match=r"1 missing: bias; 1 unexpected: other"):
        load_into(model, {"weight": STATE["weight"], "other": torch.zeros(1)}, "file.pt", strict=False)
    assert torch.equal(model.weight, STATE["weight"])
    with pytest.warns(UserWarning, match=r"1 of another shape: weight \[4, 3\] for \[2, 3\]"):
        load_into(model, {"weight": torch.zeros(4, 3), "bias": STATE["bias"]}, "file.pt", strict=False)
    assert torch.equal(model.weight, STATE["weight"])
    assert torch.equal(model.bias, STATE["bias"])
    with pytest.raises(ValueError, match=r"2 missing"):
        load_into(model, {"other": torch.zeros(1)}, "file.pt", strict=False)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "teacher.pt"
    torch.save({"text.weight": torch.ones(2), "visual.weight": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(
        ValueError, match=r"teacher\.pt: numbers that are not finite in visual\.weight; use another"
    ):
        load_weights(path)
