"""Tokenizers: shapes, end tokens, and properties of the compact vocabulary."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import Preprocessing, build_tokenizer
from models.text.tokenizer import FETAL_VOCABULARY, SPECIAL_TOKENS, fetal_vocabulary
from models.text.vocabulary.build import vocabulary


def contract(tokenizer: str, context_length: int) -> Preprocessing:
    return Preprocessing(112, (0, 0, 0), (1, 1, 1), tokenizer=tokenizer, context_length=context_length)


def fetal_tokens(text: str, context_length: int = 48) -> list[str]:
    names = {index: token for token, index in fetal_vocabulary().items()}
    ids = build_tokenizer(contract("fetal", context_length))([text])[0].tolist()
    return [names[index] for index in ids]


def test_the_committed_vocabulary_equals_the_scripts_output() -> None:
    assert FETAL_VOCABULARY.read_text(encoding="utf-8").split("\n")[:-1] == vocabulary()


def test_vocabulary_holds_every_number_and_character() -> None:
    tokens = fetal_vocabulary()
    needed = [str(n) for n in range(100)] + [f"{n:02d}" for n in range(10)]
    needed += [
        *string.punctuation,
        *string.ascii_lowercase,
        *(f"##{letter}" for letter in string.ascii_lowercase),
    ]
    assert set(needed) <= set(tokens)
    assert [tokens[token] for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert len(tokens) < 1500


def test_ages_are_whole_numbers_and_spacings_are_split_into_digits() -> None:
    tokens = fetal_tokens("Brain at 24 weeks and 3 days, pixel spacing 0.21 and 0.05.")
    assert tokens[:4] == ["<start>", "brain", "at", "24"]
    assert "".join(tokens[tokens.index("spacing") + 1 :]).startswith("0.2##1and0.0##5.<end><pad>")
    assert tokens[5:8] == ["and", "3", "days"]


def test_longer_numbers_are_split_into_whole_numbers_of_two_digits() -> None:
    assert fetal_tokens("180 mm, 2024")[:8] == ["<start>", "18", "0", "mm", ",", "20", "24", "<end>"]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=100))
def test_no_text_is_unknown(text: str) -> None:
    ids = build_tokenizer(contract("fetal", 40))([text])[0].tolist()
    unknown, start, end = (fetal_vocabulary()[token] for token in SPECIAL_TOKENS[1:])
    assert unknown not in ids
    assert ids[0] == start
    assert ids.count(end) == 1
    assert set(ids[ids.index(end) + 1 :]) <= {0}


@pytest.mark.parametrize(("name", "end"), [("clip", 49407), ("fetal", 3)])
def test_truncation_keeps_the_end_token(name: str, end: int) -> None:
    ids = build_tokenizer(contract(name, 8))(["fetal brain " * 40, "brain"])
    assert ids.shape == (2, 8)
    assert ids.dtype == torch.int64
    assert ids[0, -1] == end
    assert ids[1, 2] == end
    assert ids[1, 3:].eq(0).all()


def test_no_texts_make_an_empty_batch() -> None:
    assert build_tokenizer(contract("fetal", 16))([]).shape == (0, 16)


def test_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"'bert' is unknown: use 'clip', 'fetal' or 'hf:FOLDER'"):
        build_tokenizer(contract("bert", 16))


def test_missing_folder_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder"):
        build_tokenizer(contract("hf:nowhere", 16))


def save_word_tokenizer(folder: Path, *words: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate(("[pad]", "[unk]", *words))}
    raw = Tokenizer(models.WordLevel(ids, unk_token="[unk]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[pad]", unk_token="[unk]")
    fast.save_pretrained(folder)


def test_transformers_tokenizer_from_a_folder(tmp_path) -> None:
    save_word_tokenizer(tmp_path, "fetal", "brain")
    ids = build_tokenizer(contract(f"hf:{tmp_path}", 4))(["fetal brain", "brain brain fetal heart brain"])
    assert ids.tolist() == [[2, 3, 0, 0], [3, 3, 2, 1]]


def test_a_tokenizer_that_gives_all_texts_the_same_tokens_is_rejected(tmp_path) -> None:
    save_word_tokenizer(tmp_path, "heart")
    named = f"hf:{tmp_path}"
    with pytest.raises(
        ValueError, match=rf"^'?[^\n]*{named}', context length 8: [^\n]* give the same tokens[^\n]*$"
    ):
        build_tokenizer(contract(named, 8))


def test_damaged_tokenizer_files_are_named_in_one_line(tmp_path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=rf"{tmp_path}: the tokenizer files cannot be read") as caught:
        build_tokenizer(contract(f"hf:{tmp_path}", 8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["clip", "fetal"])
def test_a_context_without_room_for_a_word_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^context_length: 1, expected at least 3 \(start, a word, end\)$"):
        build_tokenizer(contract(name, 1))


@given(st.text(st.characters(categories=["Cs", "L", "N", "P", "Z", "C"]), max_size=40), st.integers(3, 12))
@settings(max_examples=60, deadline=None)
def test_any_text_gives_a_row_of_tokens_lone_surrogates_too(text: str, length: int) -> None:
    for name in ("clip", "fetal"):
        tokens = build_tokenizer(contract(name, length))([text, f"\ud800{text}"])
        assert (tuple(tokens.shape), tokens.dtype) == ((2, length), torch.int64)
        valid = text.encode("utf-8", "replace").decode("utf-8")
        assert torch.equal(tokens[1], build_tokenizer(contract(name, length))([f"?{valid}"])[0])
