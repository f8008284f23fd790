"""Zero-shot prompts: texts of every class and templates of the gestational age.

Zero-shot results depend on the prompts, so they are versioned JSON files, and every run records `Protocol.digest`.
The default prompts are this project's own; the official ones of FetalCLIP are not included (CC BY-NC), but their
files can be read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from string import Formatter
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from datamodules.record import BRAIN_PLANES, PLANES
from metrics.benchmarks import BENCHMARKS, Benchmark
from models.files import write_json
from models.messages import one_line, problems
from models.student.base import DEFAULT_PROMPTS

DEFAULT_PROTOCOL = DEFAULT_PROMPTS
EXAMPLE = "as in models/text/prompts.json"
# Classes that must have prompts. Other benchmarks need two classes, whose names are the labels of their images.
REQUIRED_CLASSES = {
    "planes": tuple(name for name in PLANES if name != "other"),
    "subplanes": tuple(name for name in BRAIN_PLANES if name != "other"),
}


def _check_template(template: str) -> str:
    found = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    if not {"weeks", "days"} <= found <= {"weeks", "days", "spacing"}:
        raise ValueError(
            f"{template!r} has the fields {sorted(found)}; "
            "it needs {weeks} and {days}, may have {spacing}, and nothing else"
        )
    return template


Prompt = Annotated[str, StringConstraints(pattern=r"\S")]
Prompts = Annotated[dict[str, Annotated[list[Prompt], Field(min_length=1)]], Field(min_length=2)]
Template = Annotated[str, AfterValidator(_check_template)]


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
    """

    planes: Prompts
    subplanes: Prompts
    biometry: Annotated[list[Template], Field(min_length=1)]
    further: dict[str, Prompts] = field(default_factory=dict)

    @model_validator(mode="after")
    def _check_classes(self) -> Protocol:
        for benchmark, required in REQUIRED_CLASSES.items():
            prompts = self.classes[benchmark]
            if missing := [name for name in required if name not in prompts]:
                raise ValueError(f"{benchmark}: no prompts for {missing}; present are {list(prompts)}")
        return self

    @property
    def classes(self) -> dict[str, dict[str, list[str]]]:
        """`Benchmark.prompts` of every classification benchmark -> class -> prompts."""
        return {"planes": self.planes, "subplanes": self.subplanes, **self.further}

    def content(self) -> dict[str, Any]:
        """Return the prompts as a prompt file holds them."""
        return {"planes": self.planes, "subplanes": self.subplanes, "biometry": self.biometry, **self.further}

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that depend on every word and on the order of the classes."""
        text = json.dumps(self.content(), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def load(cls, path: str | Path | None = None) -> Protocol:
        """Read prompts from a file with ``planes``, ``subplanes`` and ``biometry``; None for the default.

        An error names file and key.
        """
        source = DEFAULT_PROTOCOL if path is None else Path(path)
        return cls.of(_read_json(source), source)

    @classmethod
    def of(cls, content: Mapping[str, Any], source: str | Path) -> Protocol:
        """Check the content of a prompt file; `source` is for messages."""
        content = dict(content)
        known = {benchmark.prompts for benchmark in BENCHMARKS.values()}
        if unknown := sorted(set(content) - known):
            raise ValueError(f"{source}: {unknown} are not among the keys {sorted(known)}, {EXAMPLE}")
        own = {key: content.pop(key) for key in ("planes", "subplanes", "biometry") if key in content}
        try:
            return cls(**own, further=content)
        except ValidationError as error:
            found = one_line(problems(error).replace("further.", ""), 300)
            raise ValueError(f"{source}: {found}, {EXAMPLE}") from None

    def prompts_of(self, benchmark: Benchmark) -> Mapping[str, Sequence[str]]:
        """Return class -> prompts of a classification benchmark; a user's own benchmark may bring them.

        Raises:
            ValueError: Neither has any.
        """
        if benchmark.classes:
            return benchmark.classes
        if benchmark.prompts not in self.classes:
            raise ValueError(f"benchmark {benchmark.name}: the prompt file has no key {benchmark.prompts!r}")
        return self.classes[benchmark.prompts]

    def first(self, count: int) -> Protocol:
        """Return only the first prompts of each class and the first templates."""
        short = {
            key: {name: texts[:count] for name, texts in prompts.items()}
            for key, prompts in self.classes.items()
        }
        return Protocol(short.pop("planes"), short.pop("subplanes"), self.biometry[:count], short)

    def save(self, path: str | Path) -> None:
        """Write the prompts as JSON, atomically."""
        write_json(Path(path), self.content())


def read_prompts(path: str | Path) -> dict[str, list[str]]:
    """Read a file of class -> sentences.

    Raises:
        ValueError: It is no such file, or has fewer than two classes; the message names the class.
        FileNotFoundError: There is none.
    """
    try:
        return TypeAdapter(Prompts).validate_python(_read_json(Path(path)))
    except ValidationError as error:
        found = one_line(problems(error), 300)
        raise ValueError(f"{path}: {found}; expected class -> list of sentences") from None


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
