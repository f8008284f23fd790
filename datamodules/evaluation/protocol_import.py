"""Import the official zero-shot prompts from the user's checkout of FetalCLIP or MobileFetalCLIP.

The prompts of FetalCLIP (github.com/BioMedIA-MBZUAI/FetalCLIP, also in numanai/MobileFetalCLIP) are licensed
CC BY-NC and therefore not included here. Prompts are read from JSON files, age templates from literals
in Python sources. No source is executed.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from datamodules.evaluation.protocol import REQUIRED_CLASSES, Prompts, Protocol

MAX_BYTES = 2_000_000  # prompt files are small; larger files are predictions and notebooks
_SPELLINGS = {"{day}": "{days}", "{pixel_spacing}": "{spacing}", "{week}": "{weeks}"}


def import_protocol(checkout: str | Path, output: str | Path) -> Protocol:
    """Write the prompts of a checkout into one file.

    Args:
        checkout: Folder of a clone of FetalCLIP or MobileFetalCLIP.
        output: The file to write, for ``PROTOCOL=``.

    Raises:
        FileNotFoundError: The folder does not exist, or lacks prompts of a benchmark.
        ValueError: Two files of the checkout disagree.
    """
    folder = Path(checkout)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a checkout of FetalCLIP or MobileFetalCLIP")
    prompts = dict(_prompt_files(folder))
    found: dict[str, Mapping[str, Any]] = {
        benchmark: {name: content for name, content in prompts.items() if set(required) <= set(content)}
        for benchmark, required in REQUIRED_CLASSES.items()
    }
    found["biometry"] = dict(_template_lists(folder))
    protocol = Protocol(**{key: _only(candidates, folder, key) for key, candidates in found.items()})
    protocol.save(output)
    return protocol


def _files(folder: Path, ending: str) -> Iterator[tuple[Path, str]]:
    """Yield the relative paths and texts of the small UTF-8 files; a checkout has others, too."""
    for path in sorted(folder.rglob(f"*{ending}")):
        if path.is_file() and path.stat().st_size <= MAX_BYTES:
            with suppress(UnicodeDecodeError):
                yield path.relative_to(folder), path.read_text(encoding="utf-8-sig")


def _prompt_files(folder: Path) -> Iterator[tuple[str, Prompts]]:
    for path, text in _files(folder, ".json"):
        try:
            content = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(content, dict) and all(_is_texts(texts) for texts in content.values()):
            yield str(path), content


def _template_lists(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for path, text in _files(folder, ".py"):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.List | ast.Tuple) and (templates := _templates(node)):
                yield f"{path} line {node.lineno}", templates


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


def _only(found: Mapping[str, Any], folder: Path, benchmark: str) -> Any:
    if not found:
        raise FileNotFoundError(
            f"{folder}: no prompts for {benchmark!r}; is it a complete checkout of FetalCLIP or MobileFetalCLIP?"
        )
    contents = list(found.values())
    if any(json.dumps(content) != json.dumps(contents[0]) for content in contents):
        raise ValueError(f"{folder}: {', '.join(found)} disagree about {benchmark!r}; keep one of them")
    return contents[0]
