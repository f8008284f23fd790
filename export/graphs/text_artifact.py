"""The exported text tower: ONNX file, tokenizer files, and golden texts with their tokens and embeddings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer

from export.graphs.contract import TEXT_EMBEDDING_NAME, TOKENS_NAME, without_path
from export.graphs.onnx_graph import write_onnx
from export.graphs.pixel_graph import TokenEncoder
from models import DualEncoder, Preprocessing
from models.files import write_json
from models.text.tokenizer import FETAL_VOCABULARY, HF_PREFIX, clip_tokenizer, fetal_tokenizer

GOLDEN_TEXTS = (
    "ultrasound of the fetal brain",
    "fetal head at 24 weeks and 3 days, pixel spacing 0.21 mm",
    "Trans-thalamic plane; BPD/HC measured (2.5th centile?)",
    "",
)
CLIP_LICENCE = Path(__file__).parent / "LICENSE-CLIP.txt"
COSINE_MIN = 0.999
"""Smallest cosine with the golden embedding that an app's own text path must reach; its tokens must be equal."""


def write_text_encoder(
    model: DualEncoder, folder: Path, metadata: Mapping[str, str]
) -> tuple[Path, list[Path]]:
    """Write ``text_encoder.onnx`` (batch open), and the tokenizer's files and ``text_golden.json``; return both."""
    folder.mkdir(parents=True, exist_ok=True)
    path, golden = folder / "text_encoder.onnx", folder / "text_golden.json"
    names = (TOKENS_NAME, TEXT_EMBEDDING_NAME)
    example = model.tokenize([GOLDEN_TEXTS[0]])
    write_onnx(TokenEncoder(model).eval(), example, path, metadata, names=names, dynamic_batch=True)
    rows = [
        {"text": text, "tokens": ids.tolist(), "embedding": vector.tolist()}
        for text, ids, vector in zip(GOLDEN_TEXTS, *text_reference(model), strict=True)
    ]
    tokenizer = without_path(model.preprocessing).tokenizer
    write_json(golden, {"tokenizer": tokenizer, "cosine_min": COSINE_MIN, "rows": rows})
    return path, [*tokenizer_files(model.preprocessing, folder), golden]


@torch.no_grad()
def text_reference(model: DualEncoder) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return tokens [N, L] and embeddings [N, D] of the golden texts."""
    tokens = model.tokenize(list(GOLDEN_TEXTS))
    return tokens.numpy(), model.encode_text(tokens).numpy()


def tokenizer_files(preprocessing: Preprocessing, folder: Path) -> list[Path]:
    """Write what an app needs to rebuild a tokenizer.

    Returns:
        ``tokenizer.json``, which the `tokenizers` libraries read, with ``merges.txt``, ``vocab.json`` and their
        licence (CLIP's byte-pair encoding) or ``vocabulary.txt`` (this project's word pieces, a token's id is its
        line); or the files of a `transformers` tokenizer, in ``tokenizer/``.
    """
    name, length = preprocessing.tokenizer, preprocessing.context_length
    whole = folder / "tokenizer.json"
    if name == "clip":
        own = SimpleTokenizer()
        vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
        vocabulary.write_text(json.dumps(own.encoder, ensure_ascii=False) + "\n", encoding="utf-8")
        # The published list has further merges that CLIP does not use.
        lines = ["#version: 0.2", *(" ".join(pair) for pair in own.bpe_ranks)]
        merges.write_text("\n".join(lines) + "\n", encoding="utf-8")
        clip_tokenizer(length, folder).save(str(whole))
        return [whole, vocabulary, merges, Path(shutil.copyfile(CLIP_LICENCE, folder / CLIP_LICENCE.name))]
    if name == "fetal":
        fetal_tokenizer(length).save(str(whole))
        return [whole, Path(shutil.copyfile(FETAL_VOCABULARY, folder / "vocabulary.txt"))]
    target = folder / "tokenizer"
    target.mkdir()
    files = sorted(Path(name.removeprefix(HF_PREFIX)).iterdir())
    chosen = [file for file in files if file.suffix in (".json", ".txt", ".model")]
    return [Path(shutil.copyfile(file, target / file.name)) for file in chosen]
