"""Zero-shot prompts: texts of every class and templates of the gestational age.

Zero-shot results depend on the prompts, so they are versioned JSON files, and every run records `Protocol.digest`.
The default prompts are this project's own; the official ones of FetalCLIP are not included (CC BY-NC), but their
files can be read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

from datamodules.record import BRAIN_PLANES, PLANES
from metrics.benchmarks import BENCHMARKS
from models.files import write_json

DEFAULT_PROTOCOL = Path(__file__).parent / "protocols" / "default.json"
OWN_KEYS = ("planes", "subplanes", "biometry")
EXAMPLE = "as in datamodules/evaluation/protocols/default.json"
# Classes that must have prompts. Other benchmarks need two classes, whose names are the labels of their images.
REQUIRED_CLASSES = {
    "planes": tuple(name for name in PLANES if name != "other"),
    "subplanes": tuple(name for name in BRAIN_PLANES if name != "other"),
}

Prompts = dict[str, list[str]]


@dataclass(frozen=True)
class Protocol:
    """Prompts of the zero-shot benchmarks.

    Attributes:
        planes: Class -> prompts of the five-plane benchmark. Classes besides the five are allowed: they make the
            task harder.
        subplanes: Class -> prompts of the three brain sub-planes.
        biometry: Templates with ``{weeks}``, ``{days}`` and, optionally, ``{spacing}`` (millimetres per pixel
            at the model's resolution, two decimals).
        further: `Benchmark.prompts` of any other classification benchmark -> class -> prompts.

    Raises:
        ValueError: A required class has no prompts, a prompt is not a text, or a template has other fields.
    """

    planes: Prompts
    subplanes: Prompts
    biometry: list[str]
    further: dict[str, Prompts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for benchmark, prompts in self.classes.items():
            _check_prompts(benchmark, prompts, REQUIRED_CLASSES.get(benchmark, ()))
            if len(prompts) < 2:
                raise ValueError(f"{benchmark}: expected prompts of two or more classes")
        if not isinstance(self.biometry, list) or not self.biometry:
            raise ValueError("biometry: expected a list of one or more templates")
        for template in self.biometry:
            _check_template(template)

    @property
    def classes(self) -> dict[str, Prompts]:
        """`Benchmark.prompts` of every classification benchmark -> class -> prompts."""
        return {"planes": self.planes, "subplanes": self.subplanes, **self.further}

    def _content(self) -> dict[str, Any]:
        return {"planes": self.planes, "subplanes": self.subplanes, "biometry": self.biometry, **self.further}

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that depend on every word and on the order of the classes."""
        text = json.dumps(self._content(), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        planes: str | Path | None = None,
        subplanes: str | Path | None = None,
    ) -> Protocol:
        """Read prompts from a file.

        Args:
            path: A file with ``planes``, ``subplanes`` and ``biometry``; None for the default.
            planes: A file of class -> prompts that replaces the planes, such as FetalCLIP's
                ``five_planes_prompts.json``.
            subplanes: The same for the sub-planes, such as ``brain_subplanes_prompts.json``.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: A file is not JSON or lacks prompts; the message names file and key.
        """
        source = DEFAULT_PROTOCOL if path is None else Path(path)
        content, keys = _read_json(source), list(dict.fromkeys(one.prompts for one in BENCHMARKS.values()))
        wrong = [f"{key!r} is no key of a protocol" for key in sorted(set(content) - set(keys))]
        wrong += [f"{key!r} is missing" for key in sorted(set(OWN_KEYS) - set(content))]
        if wrong:
            raise ValueError(f"{source}: {', '.join(wrong)}; it has the keys {', '.join(keys)}, {EXAMPLE}")
        sources = dict.fromkeys(keys, source)
        for key, replacement in (("planes", planes), ("subplanes", subplanes)):
            if replacement is not None:
                sources[key] = Path(replacement)
                content[key] = _read_json(sources[key])
        own = {key: content.pop(key) for key in OWN_KEYS}
        try:
            return cls(**own, further=content)
        except ValueError as error:
            raise ValueError(f"{sources[str(error).split(':')[0]]}: {error}") from None

    def first(self, count: int) -> Protocol:
        """Return only the first prompts of each class and the first templates."""
        short = {
            key: {name: texts[:count] for name, texts in prompts.items()}
            for key, prompts in self.classes.items()
        }
        planes, subplanes = short.pop("planes"), short.pop("subplanes")
        return Protocol(planes, subplanes, self.biometry[:count], short)

    def save(self, path: str | Path) -> None:
        """Write the prompts as JSON, atomically."""
        write_json(Path(path), self._content())


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


def _check_template(template: Any) -> None:
    if not isinstance(template, str):
        raise ValueError(f"biometry: template {template!r} is not a text")
    try:
        found = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"biometry: template {template!r}: {error}") from None
    if not {"weeks", "days"} <= found <= {"weeks", "days", "spacing"}:
        raise ValueError(
            f"biometry: template {template!r} has the fields {sorted(found)}; "
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
