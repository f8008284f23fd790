"""Import the official zero-shot prompts from the user's checkout of FetalCLIP or MobileFetalCLIP.

The prompts of FetalCLIP (github.com/BioMedIA-MBZUAI/FetalCLIP, also in numanai/MobileFetalCLIP) are licensed
CC BY-NC and therefore not included here. Prompts are read from JSON files, age templates from literals
in Python sources. No source is executed.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from datamodules.evaluation.protocol import REQUIRED_CLASSES, Protocol

MAX_BYTES = 2_000_000  # prompt files are small; larger files are predictions and notebooks
_SPELLINGS = {"{day}": "{days}", "{pixel_spacing}": "{spacing}", "{week}": "{weeks}"}


def import_protocol(checkout: str | Path, output: str | Path) -> Protocol:
    """Write the prompts of a clone of FetalCLIP or MobileFetalCLIP into one file, for ``PROTOCOL=``.

    Raises:
        FileNotFoundError: The folder does not exist, or lacks prompts of a benchmark.
        ValueError: Two files of the checkout disagree.
    """
    folder = Path(checkout)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a checkout of FetalCLIP or MobileFetalCLIP")
    found: dict[str, dict[str, Any]] = {key: {} for key in (*REQUIRED_CLASSES, "biometry")}
    for key, place, prompts in _candidates(folder):
        found[key][place] = prompts
    protocol = Protocol(**{key: _only(places, folder, key) for key, places in found.items()})
    protocol.save(output)
    return protocol


def _candidates(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield (key of `Protocol`, place in the checkout, prompts)."""
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".json", ".py") or not path.is_file() or path.stat().st_size > MAX_BYTES:
            continue
        text, place = path.read_text(encoding="utf-8-sig", errors="replace"), path.relative_to(folder)
        with suppress(SyntaxError, ValueError):  # a checkout has other files, too
            if path.suffix == ".py":
                for node in ast.walk(ast.parse(text)):
                    if isinstance(node, ast.List | ast.Tuple) and (templates := _templates(node)):
                        yield "biometry", f"{place} line {node.lineno}", templates
            elif isinstance(content := json.loads(text), dict) and all(map(_is_texts, content.values())):
                for key, required in REQUIRED_CLASSES.items():
                    if set(required) <= set(content):
                        yield key, str(place), content


def _templates(node: ast.List | ast.Tuple) -> list[str]:
    """Return the age templates of a literal list, in this project's spelling; else an empty list."""
    try:
        texts = list(ast.literal_eval(node))
    except ValueError:
        return []
    if not _is_texts(texts):
        return []
    for theirs, ours in _SPELLINGS.items():
        texts = [text.replace(theirs, ours) for text in texts]
    return texts if all("{weeks}" in text and "{days}" in text for text in texts) else []


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _only(found: dict[str, Any], folder: Path, key: str) -> Any:
    if not found:
        raise FileNotFoundError(
            f"{folder}: no prompts for {key!r}; is it a complete checkout of FetalCLIP or MobileFetalCLIP?"
        )
    contents = list(found.values())
    if any(json.dumps(content) != json.dumps(contents[0]) for content in contents):
        raise ValueError(f"{folder}: {', '.join(found)} disagree about {key!r}; keep one of them")
    return contents[0]
