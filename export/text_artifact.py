"""The text tower on request: ONNX, the tokenizer's files, and texts with their tokens and embeddings."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.contract import TEXT_EMBEDDING_NAME, TOKENS_NAME
from export.onnx_graph import write_onnx
from export.pixel_graph import TokenEncoder
from models import DualEncoder
from models.tokenizer import FETAL_VOCABULARY, HF_PREFIX

GOLDEN_TEXTS = (
    "ultrasound of the fetal brain",
    "fetal head at 24 weeks and 3 days, pixel spacing 0.21 mm",
    "Trans-thalamic plane; BPD/HC measured (2.5th centile?)",
    "",
)


def write_text_encoder(
    model: DualEncoder, folder: Path, metadata: Mapping[str, str], warnings: list[str]
) -> tuple[Path, list[Path]]:
    """Write ``text_encoder.onnx`` (batch open), the tokenizer's files and ``text_golden.json``.

    Args:
        model: The dual encoder, in eval mode.
        folder: Folder to write into.
        metadata: Texts for the file's metadata.
        warnings: Receives the converter's warnings.

    Returns:
        The ONNX file, and the other files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "text_encoder.onnx"
    write_onnx(
        TokenEncoder(model).eval(),
        model.tokenize([GOLDEN_TEXTS[0]]),
        path,
        input_name=TOKENS_NAME,
        output_name=TEXT_EMBEDDING_NAME,
        metadata=metadata,
        dynamic_batch=True,
        warnings=warnings,
    )
    files = tokenizer_files(model.preprocessing.tokenizer, folder)
    tokens, embeddings = text_reference(model)
    golden = folder / "text_golden.json"
    rows = [
        {"text": text, "tokens": ids.tolist(), "embedding": vector.tolist()}
        for text, ids, vector in zip(GOLDEN_TEXTS, tokens, embeddings, strict=True)
    ]
    golden.write_text(json.dumps({"tokenizer": model.preprocessing.tokenizer, "rows": rows}) + "\n")
    return path, [*files, golden]


@torch.no_grad()
def text_reference(model: DualEncoder) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return tokens [N, L] and embeddings [N, D] of the golden texts."""
    tokens = model.tokenize(list(GOLDEN_TEXTS))
    return tokens.numpy(), model.encode_text(tokens).numpy()


def tokenizer_files(tokenizer: str, folder: Path) -> list[Path]:
    """Copy what an app needs to rebuild a tokenizer.

    Args:
        tokenizer: Name in the preprocessing contract.
        folder: Folder to write into.

    Returns:
        ``merges.txt`` (CLIP's byte-pair merges), ``vocabulary.txt`` (this project's word pieces, a token's id
        is its line), or the files of a `transformers` tokenizer.
    """
    if tokenizer == "clip":
        from open_clip.tokenizer import default_bpe

        target = folder / "merges.txt"
        target.write_bytes(gzip.decompress(Path(default_bpe()).read_bytes()))
        return [target]
    if tokenizer == "fetal":
        target = folder / "vocabulary.txt"
        shutil.copyfile(FETAL_VOCABULARY, target)
        return [target]
    source = Path(tokenizer.removeprefix(HF_PREFIX))
    target_folder = folder / "tokenizer"
    target_folder.mkdir()
    chosen = [file for file in sorted(source.iterdir()) if file.suffix in (".json", ".txt", ".model")]
    return [Path(shutil.copyfile(file, target_folder / file.name)) for file in chosen]
