"""The words of the zero-shot evaluation: prompts of every class and templates of every gestational age.

Prompts decide zero-shot results, so they live in versioned JSON files, and `Protocol.digest` goes into the
record of every run. The default is worded for this project; the official prompts of FetalCLIP are not
shipped (CC BY-NC) but their files are read as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from datamodules.record import BRAIN_PLANES, PLANES

DEFAULT_PROTOCOL = Path(__file__).parent / "protocols" / "default.json"
EXAMPLE = "as in datamodules/protocols/default.json"
FIELDS = ("weeks", "days", "spacing")
REQUIRED_CLASSES = {
    "planes": tuple(name for name in PLANES if name != "other"),
    "subplanes": tuple(name for name in BRAIN_PLANES if name != "other"),
}

Prompts = dict[str, list[str]]


@dataclass(frozen=True)
class Protocol:
    """Prompts of the three zero-shot benchmarks.

    Attributes:
        planes: Class -> prompts of the five-plane benchmark. More classes than the five that occur are fine:
            they make the question harder.
        subplanes: Class -> prompts of the three brain sub-planes.
        biometry: Templates with ``{weeks}``, ``{days}`` and, optionally, ``{spacing}`` (millimetres per pixel
            at the model's resolution, two decimals).

    Raises:
        ValueError: A class that occurs has no prompts, a prompt is no text, or a template has other fields.
    """

    planes: Prompts
    subplanes: Prompts
    biometry: list[str]

    def __post_init__(self) -> None:
        for benchmark, required in REQUIRED_CLASSES.items():
            _check_prompts(benchmark, getattr(self, benchmark), required)
        _check_templates(self.biometry)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with any word and with the order of classes."""
        text = json.dumps(asdict(self), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        planes: str | Path | None = None,
        subplanes: str | Path | None = None,
    ) -> Protocol:
        """Read a protocol.

        Args:
            path: A protocol file with ``planes``, ``subplanes`` and ``biometry``; None for the default.
            planes: A file of class -> prompts that replaces the planes, such as FetalCLIP's
                ``five_planes_prompts.json``.
            subplanes: The same for the sub-planes, such as ``brain_subplanes_prompts.json``.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: A file is not JSON or does not hold a protocol; the message names file and key.
        """
        source = DEFAULT_PROTOCOL if path is None else Path(path)
        content = _read_json(source)
        unknown, missing = sorted(set(content) - set(_KEYS)), sorted(set(_KEYS) - set(content))
        if unknown or missing:
            wrong = [f"{key!r} is no key of a protocol" for key in unknown]
            wrong += [f"{key!r} is missing" for key in missing]
            raise ValueError(f"{source}: {', '.join(wrong)}; it has the keys {', '.join(_KEYS)}, {EXAMPLE}")
        sources = {"planes": source, "subplanes": source, "biometry": source}
        for key, replacement in (("planes", planes), ("subplanes", subplanes)):
            if replacement is not None:
                sources[key] = Path(replacement)
                content[key] = _read_json(sources[key])
        try:
            return cls(**content)
        except ValueError as error:
            key = str(error).split(":")[0]
            raise ValueError(f"{sources.get(key, source)}: {error}") from None

    def first(self, count: int) -> Protocol:
        """Return the protocol of the first prompts of each class and the first templates alone."""
        return Protocol(
            {name: texts[:count] for name, texts in self.planes.items()},
            {name: texts[:count] for name, texts in self.subplanes.items()},
            self.biometry[:count],
        )

    def save(self, path: str | Path) -> None:
        """Write the protocol as JSON, whole or not at all."""
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(target)


_KEYS = ["planes", "subplanes", "biometry"]


def _check_prompts(benchmark: str, prompts: Any, required: tuple[str, ...]) -> None:
    if not isinstance(prompts, Mapping):
        raise ValueError(f"{benchmark}: expected class -> list of prompts, not {type(prompts).__name__}")
    missing = [name for name in required if name not in prompts]
    if missing:
        raise ValueError(f"{benchmark}: no prompts for {missing}; present are {list(prompts)}")
    for name, texts in prompts.items():
        if not isinstance(texts, list) or not texts:
            raise ValueError(f"{benchmark}: class {name!r} needs a list of one or more prompts")
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(f"{benchmark}: class {name!r} has a prompt that is empty or not a text")


def _check_templates(templates: Any) -> None:
    if not isinstance(templates, list) or not templates:
        raise ValueError("biometry: expected a list of one or more templates")
    for template in templates:
        if not isinstance(template, str):
            raise ValueError(f"biometry: template {template!r} is not a text")
        try:
            fields = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
        except ValueError as error:
            raise ValueError(f"biometry: template {template!r}: {error}") from None
        if not {"weeks", "days"} <= fields <= set(FIELDS):
            raise ValueError(
                f"biometry: template {template!r} has the fields {sorted(fields)}; "
                "it needs {weeks} and {days}, may have {spacing}, and nothing else"
            )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such protocol or prompt file")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file: {error}; {EXAMPLE}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, not {type(content).__name__}; {EXAMPLE}")
    return content
