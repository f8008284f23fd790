"""Read the official zero-shot prompts from a checkout that the user has.

The prompts of FetalCLIP (github.com/BioMedIA-MBZUAI/FetalCLIP, also in numanai/MobileFetalCLIP) are licensed
CC BY-NC and so are not shipped here. Prompt lists are taken from JSON files, age templates from the literals
of Python sources. No source is ever run.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datamodules.protocol import REQUIRED_CLASSES, Prompts, Protocol

MAX_BYTES = 2_000_000  # prompt files are small; predictions and notebooks beside them need not be read
_SPELLINGS = {"{day}": "{days}", "{pixel_spacing}": "{spacing}", "{week}": "{weeks}"}


def import_protocol(checkout: str | Path, output: str | Path) -> Protocol:
    """Write the prompts of a checkout into one protocol file.

    Args:
        checkout: Folder of a clone of FetalCLIP or MobileFetalCLIP.
        output: The protocol file to write, for ``PROTOCOL=``.

    Returns:
        The protocol.

    Raises:
        FileNotFoundError: The folder does not exist, or lacks prompts of a benchmark.
        ValueError: Two files of the checkout disagree.
    """
    folder = Path(checkout)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a checkout of FetalCLIP or MobileFetalCLIP")
    prompts = dict(_prompt_files(folder))
    protocol = Protocol(
        planes=_the_one(_with_classes(prompts, "planes"), folder, "planes"),
        subplanes=_the_one(_with_classes(prompts, "subplanes"), folder, "subplanes"),
        biometry=_the_one(dict(_template_lists(folder)), folder, "biometry"),
    )
    protocol.save(output)
    return protocol


def _files(folder: Path, ending: str) -> Iterator[Path]:
    for path in sorted(folder.rglob(f"*{ending}")):
        if path.is_file() and path.stat().st_size <= MAX_BYTES:
            yield path


def _prompt_files(folder: Path) -> Iterator[tuple[str, Prompts]]:
    for path in _files(folder, ".json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue  # a checkout holds files that are none of our business
        if isinstance(content, dict) and all(_is_texts(texts) for texts in content.values()):
            yield str(path.relative_to(folder)), content


def _with_classes(prompts: Mapping[str, Prompts], benchmark: str) -> dict[str, Prompts]:
    required = set(REQUIRED_CLASSES[benchmark])
    return {name: content for name, content in prompts.items() if required <= set(content)}


def _template_lists(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for path in _files(folder, ".py"):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.List | ast.Tuple) and (templates := _templates(node)):
                yield f"{path.relative_to(folder)} line {node.lineno}", templates


def _templates(node: ast.List | ast.Tuple) -> list[str]:
    """Return the age templates that a literal list holds, in this project's spelling; else an empty list."""
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


def _the_one(found: Mapping[str, Any], folder: Path, benchmark: str) -> Any:
    if not found:
        raise FileNotFoundError(
            f"{folder}: no prompts for {benchmark!r}; is it a whole checkout of FetalCLIP or MobileFetalCLIP?"
        )
    contents = list(found.values())
    if any(json.dumps(content) != json.dumps(contents[0]) for content in contents):
        raise ValueError(f"{folder}: {', '.join(found)} disagree about {benchmark!r}; keep one of them")
    return contents[0]
