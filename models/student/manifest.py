"""manifest.json of an export folder: what it must hold, and the checks of everything that it lists. No PyTorch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from models.files import sha256
from models.messages import one_line, problems
from models.preprocessing import Preprocessing
from models.student.base import Calibration
from models.student.onnx_files import HEADS, Head, read_heads

MANIFEST, FORMAT = "manifest.json", 3
SEAL = "manifest_sha256"
"""Key of the manifest with the digest of all others."""


def _inside(file: str) -> str:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\\" in file or path.as_posix() != file or "\0" in file:
        raise ValueError(f"{file!r} is not a path inside the export folder")
    return file


class Artifact(BaseModel, extra="allow"):
    """A file or package of an export: place, size in bytes, hash, and further facts of its kind."""

    file: Annotated[str, AfterValidator(_inside)]
    bytes: int
    sha256: str
    kind: str


class Contract(BaseModel, extra="allow"):
    """The part of the contract that a reader needs."""

    preprocessing: dict[str, Any]


class Source(BaseModel, extra="allow"):
    """Where the student comes from; its recipe rebuilds it."""

    recipe: dict[str, Any]


class Manifest(BaseModel):
    """The keys that a reader needs; the exporter writes more."""

    model_config = ConfigDict(extra="allow", strict=True)

    format: Literal[3]
    contract: Contract
    contract_sha256: str
    model_sha256: str
    embed_dim: Annotated[int, Field(ge=1)]
    source: Source
    artifacts: dict[str, Artifact]
    heads: dict[str, dict[str, Any]]
    answers: Calibration | None = None
    manifest_sha256: str


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the digest of its other keys; `export.parity.verify_coreml` computes the same."""
    plain = json.loads(json.dumps({key: value for key, value in content.items() if key != SEAL}))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return {**plain, SEAL: hashlib.sha256(text.encode()).hexdigest()}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read manifest.json and check its keys, its digest and its preprocessing contract.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, of another format, or was edited.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the folder that `make export CKPT=...` wrote")
    try:
        Manifest.model_validate_json(content := path.read_bytes())
        manifest: dict[str, Any] = json.loads(content)
        Preprocessing(**manifest["contract"]["preprocessing"])
    except ValidationError as error:
        raise ValueError(f"{path}: {problems(error)}; export again") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: {one_line(error)}; export again") from error
    if seal(manifest)[SEAL] != manifest[SEAL]:
        raise ValueError(f"{path}: it was edited after the export; export again")
    return manifest


def artifact_path(folder: Path, manifest: Mapping[str, Any], name: str) -> Path:
    """Return the path of an artifact whose content is what the manifest says.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: The export has none of that name, or it was changed.
    """
    entry = manifest["artifacts"].get(name)
    if entry is None:
        raise ValueError(f"{folder}: the export has no {name}; it holds {', '.join(manifest['artifacts'])}")
    path = folder / str(entry["file"])
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing, though {MANIFEST} lists it; export again")
    if sha256(path) != entry["sha256"]:
        raise ValueError(
            f"{path}: its hash is not the manifest's, so the file was changed or replaced; export again"
        )
    return path


def without_prompts(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return a head's description as the manifest repeats it."""
    return {key: value for key, value in description.items() if key != "prompts"}


def checked_heads(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Head]:
    """Read the heads of an export; each must be what the manifest says of it.

    Raises:
        ValueError: They are damaged, or of another shape, order of labels or student.
    """
    path = artifact_path(folder, manifest, "heads")
    heads = read_heads(path)
    for name in sorted({*heads, *manifest["heads"]}):
        if name not in heads or name not in manifest["heads"]:
            raise ValueError(f"{path}: head {name!r} is not in both {HEADS} and {MANIFEST}; export again")
        head = heads[name]
        if without_prompts(head.description) != manifest["heads"][name]:
            raise ValueError(f"{path}: head {name!r} is not the one that {MANIFEST} describes; export again")
        width = (head.vectors if head.basis is None else head.basis).shape[-1]
        if width != manifest["embed_dim"]:
            raise ValueError(
                f"{path}: head {name!r} is for embeddings of {width} numbers, not {manifest['embed_dim']}; "
                "export again"
            )
    return heads
