"""Open a student from a checkpoint or an export folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints, TypeAdapter, ValidationError

from models.messages import one_line, problems
from models.student.base import ANSWERS, DEFAULT_PROMPTS, OWN_CLASSES, Calibration, Student
from models.student.exported import ExportedStudent
from models.student.manifest import MANIFEST

Texts = Annotated[list[Annotated[str, StringConstraints(pattern=r"\S")]], Field(min_length=1)]
_CLASSES = TypeAdapter(dict[str, dict[str, Texts]])


class _Prompts(BaseModel, extra="allow"):
    biometry: Texts
    __pydantic_extra__: dict[str, dict[str, Texts]]  # class -> texts of each benchmark


def load_student(
    path: str | Path, prompts: str | Path | Mapping[str, Any] | None = None, device: str = "cpu"
) -> Student:
    """Open a student that answers questions about images (see `Student`).

    Args:
        path: A checkpoint (see `models.from_checkpoint`), or an export folder, which is read without PyTorch.
        prompts: A prompt file or its content, for a checkpoint; None for those of its calibration, else the default.
        device: Device of a checkpoint's model.

    Raises:
        ValueError: It is none of these, or the prompts are not lists of texts.
    """
    path = Path(path)
    if (path / MANIFEST).is_file():
        if prompts is not None:
            raise ValueError(f"{path}: the prompts of an export are fixed; export again with PROTOCOL=")
        return ExportedStudent(path)
    best = path / "checkpoints" / "best.ckpt"
    if best.is_file():
        raise ValueError(f"{path}: a run's folder; give {best} or its export")
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path}: neither a checkpoint nor an export folder ({MANIFEST} is missing)")
    from models.checkpoints.weights import read_entry
    from models.loading import from_checkpoint
    from models.student.checkpoint import CheckpointStudent

    model = from_checkpoint(str(path)).to(device)
    found = read_entry(path, ANSWERS)
    own = None if found is None else Calibration(**found)
    if prompts is None:
        prompts = DEFAULT_PROMPTS if own is None else own.prompts
    content = _checked(prompts)
    try:
        classes = _CLASSES.validate_python(read_entry(path, OWN_CLASSES) or {})
    except ValidationError as error:
        raise ValueError(f"{path}: {OWN_CLASSES}: {one_line(problems(error), 300)}") from None
    # A threshold holds for the prompts that it was measured with.
    calibration = own if own is not None and own.prompts == content else None
    return CheckpointStudent(model, content, calibration, classes)


def _checked(prompts: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a prompt file."""
    source = "prompts" if isinstance(prompts, Mapping) else str(prompts)
    try:
        content: dict[str, Any] = (
            dict(prompts)
            if isinstance(prompts, Mapping)
            else json.loads(Path(prompts).read_text("utf-8-sig"))
        )
        _Prompts.model_validate(content)
    except ValueError as error:
        found = problems(error) if isinstance(error, ValidationError) else error
        raise ValueError(f"{source}: {one_line(found, 300)}; example: {DEFAULT_PROMPTS}") from error
    return content
