"""Tokenizers by the name in the preprocessing contract. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from models.preprocessing import Preprocessing

Tokenize = Callable[[list[str]], Tensor]

FETAL_VOCABULARY = Path(__file__).parent / "vocabulary" / "fetal.txt"
PAD, UNKNOWN, START, END = SPECIAL_TOKENS = ("<pad>", "<unk>", "<start>", "<end>")
CLIP_SPECIAL_TOKENS = ("<start_of_text>", "<end_of_text>")
PAD_ID = 0
"""Padding id of both built-in tokenizers (in CLIP's vocabulary also the rare ``!``)."""
HF_PREFIX = "hf:"
TOKENIZER_FILES = (
    ("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",), ("tokenizer.model",), ("vocab.txt",),
)  # fmt: skip
"""Files of a `transformers` tokenizer; a folder needs one complete set."""
DIFFERENT_TEXTS = ["brain", "femur"]  # a usable tokenizer tells them apart
SHORTEST_CONTEXT = 3  # start, a word, end


def build_tokenizer(preprocessing: Preprocessing) -> Tokenize:
    """Return the tokenizer that a model's contract names: N texts to token ids [N, L], int64, padded and truncated.

    A truncated text keeps its end token. Lone surrogates, which JSON may hold and UTF-8 may not, become ``?``.

    Raises:
        ValueError: The name is none of ``clip``, ``fetal`` and ``hf:FOLDER``, the context is shorter than
            `SHORTEST_CONTEXT`, or the tokenizer gives different texts the same tokens.
        FileNotFoundError: ``hf:FOLDER`` names a missing folder, or one without tokenizer files.
    """
    return _build(preprocessing.tokenizer, preprocessing.context_length)


@cache
def _build(name: str, context_length: int) -> Tokenize:
    if context_length < SHORTEST_CONTEXT:
        raise ValueError(
            f"context_length: {context_length}, expected at least {SHORTEST_CONTEXT} (start, a word, end)"
        )
    if name == "clip":
        # CLIP's byte-pair encoding (Radford et al. 2021); its merges ship with open_clip.
        tokenize: Tokenize = SimpleTokenizer(context_length=context_length)
    elif name == "fetal":
        tokenize = _fetal(context_length)
    elif name.startswith(HF_PREFIX):
        tokenize = _transformers(Path(name.removeprefix(HF_PREFIX)), context_length)
    else:
        raise ValueError(f"tokenizer {name!r} is unknown: use 'clip', 'fetal' or 'hf:FOLDER'")
    first, second = tokenize(DIFFERENT_TEXTS).tolist()
    if first == second:
        raise ValueError(
            f"tokenizer {name!r}, context length {context_length}: {' and '.join(map(repr, DIFFERENT_TEXTS))} give the "
            "same tokens; use a longer context, or a folder with a complete vocabulary"
        )
    return lambda texts: tokenize([text.encode("utf-8", "replace").decode("utf-8") for text in texts])


def token_range(name: str) -> tuple[int, int]:
    """Return the vocabulary size of a built-in tokenizer and the id of its end token.

    Raises:
        ValueError: The name is neither ``clip`` nor ``fetal``.
    """
    if name == "clip":
        tokenizer = SimpleTokenizer()
        return tokenizer.vocab_size, tokenizer.eot_token_id
    if name == "fetal":
        vocabulary = fetal_vocabulary()
        return len(vocabulary), vocabulary[END]
    raise ValueError(f"tokenizer {name!r} cannot be used here: models.TimmEncoder takes 'clip' or 'fetal'")


@cache
def fetal_vocabulary() -> dict[str, int]:
    """Return the compact vocabulary: token -> id, the line number in ``fetal.txt``."""
    return {token: index for index, token in enumerate(FETAL_VOCABULARY.read_text(encoding="utf-8").split())}


def number_families() -> list[list[int]]:
    """Return the ids of the compact vocabulary's number tokens, each family in ascending order of value."""
    vocabulary = fetal_vocabulary()
    families = (("", 100), (".", 10), ("##", 10))
    return [[vocabulary[f"{prefix}{number}"] for number in range(count)] for prefix, count in families]


def _fetal(context_length: int) -> Tokenize:
    tokenizer = fetal_tokenizer(context_length)

    # The models of a run embed the same age prompts, and encoding one takes as long as a small text tower. One by one:
    # encode_batch starts threads, which are not safe in forked data workers.
    @lru_cache(maxsize=1 << 17)
    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text).ids)

    def tokenize(texts: list[str]) -> Tensor:
        ids = [encode(text) for text in texts]
        return torch.tensor(ids, dtype=torch.int64).reshape(len(ids), context_length)

    return tokenize


def fetal_tokenizer(context_length: int) -> Tokenizer:
    """Build the WordPiece tokenizer of the compact vocabulary.

    Words fall back to letters, whole numbers are split into one- or two-digit tokens and decimals into digits
    (``24 weeks, 0.21`` is ``24 weeks , 0 .2 ##1``: each of a hundred separate hundredths would be too rare to
    learn), and a character without an ASCII form becomes ``?``, so that no text contains the unknown token.
    """
    vocabulary = fetal_vocabulary()
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Replace(Regex(r"[^ -~]"), "?"),
        ]
    )
    # At most 60 letters: WordPiece maps words of more than 100 to the unknown token.
    pieces = Regex(r"(?<=[0-9])\.[0-9]{1,8}|[a-z]{1,60}|[0-9]{1,2}|[^ a-z0-9]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pieces, behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])]
    )
    tokenizer.enable_truncation(context_length)
    tokenizer.enable_padding(pad_id=vocabulary[PAD], pad_token=PAD, length=context_length)
    return tokenizer


def clip_tokenizer(context_length: int, folder: Path) -> Tokenizer:
    """Build CLIP's tokenizer from ``vocab.json`` and ``merges.txt`` of a folder, as an app does.

    It gives the tokens of `build_tokenizer`, except for texts with mojibake, HTML entities or the special tokens.
    """
    model = models.BPE.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt"), end_of_word_suffix="</w>"
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex("[\u02bc\u2018-\u201b]"), "'"),
            normalizers.Replace(Regex("[\u201c-\u201f]"), '"'),
            normalizers.Lowercase(),
        ]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    special = [(token, tokenizer.token_to_id(token)) for token in CLIP_SPECIAL_TOKENS]
    start, end = CLIP_SPECIAL_TOKENS
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=special
    )
    tokenizer.enable_truncation(context_length)
    tokenizer.enable_padding(pad_id=PAD_ID, pad_token="!", length=context_length)
    return tokenizer


def largest_id(folder: Path) -> int:
    """Return the largest token id of a tokenizer that `transformers` saved."""
    return int(max(_saved(folder).get_vocab().values()))


@cache
def _saved(folder: Path) -> Any:
    """Load a `transformers` tokenizer from a local folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; 'hf:FOLDER' needs a saved tokenizer on disk")
    # Without its files transformers builds a CLIP tokenizer all the same, which maps every text to padding.
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES):
        wanted = ", or ".join(" and ".join(names) for names in TOKENIZER_FILES)
        raise FileNotFoundError(
            f"{folder}: no tokenizer files ({wanted}); save them with tokenizer.save_pretrained(folder)"
        )
    from transformers import AutoTokenizer  # slow import, not needed by other tokenizers

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)  # nosec B615  # a local folder
    except Exception as error:  # damaged files can raise anything
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{folder}: the tokenizer files cannot be read ({type(error).__name__}: {reason}); "
            "save them again with tokenizer.save_pretrained(folder)"
        ) from error


def _transformers(folder: Path, context_length: int) -> Tokenize:
    tokenizer = _saved(folder)

    def tokenize(texts: list[str]) -> Tensor:
        encoded = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=context_length, return_tensors="pt"
        )
        ids: Tensor = encoded["input_ids"]
        return ids

    return tokenize
