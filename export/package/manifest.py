"""manifest.json: contents of an export folder, and a reader that rejects changed or mismatched files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from safetensors import safe_open

from export.graphs.contract import METADATA_PREFIX, TIES, contract_digest
from export.graphs.onnx_graph import onnx_metadata
from export.user_files import problems
from models import Preprocessing
from models.files import sha256, write_json
from models.student.onnx_files import Head, read_heads

MANIFEST = "manifest.json"
PACKAGES = (
    "torch", "timm", "open_clip_torch", "onnx", "onnxscript", "onnxruntime", "coremltools", "openvino", "numpy"
)  # fmt: skip
"""Distributions whose versions a manifest records."""

TIED_KINDS = ("onnx", "coreml", "heads")
"""Kinds of artifacts whose metadata hold the ties to contract and student."""


class Artifact(BaseModel, extra="allow"):
    """A file or package of an export: place, size in bytes, hash, and further facts of its kind."""

    file: str
    bytes: int
    sha256: str
    kind: str


class Manifest(BaseModel, extra="allow"):
    """The keys that the reader needs; the exporter writes more."""

    format: Literal[2]
    contract: dict[str, Any]
    contract_sha256: str
    model_sha256: str
    source: dict[str, Any]
    artifacts: dict[str, Artifact]


def artifact_entry(path: Path, root: Path, **facts: Any) -> dict[str, Any]:
    """Describe one file or package for the manifest: place, size, hash, and the given facts."""
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return {"file": path.relative_to(root).as_posix(), "bytes": size, "sha256": sha256(path), **facts}


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write manifest.json."""
    write_json(folder / MANIFEST, Manifest(format=2, **content).model_dump())


@dataclass(frozen=True)
class Export:
    """An export folder whose files match its manifest.

    Attributes:
        folder: The folder.
        manifest: The manifest, as primitives.
    """

    folder: Path
    manifest: dict[str, Any]

    @property
    def preprocessing(self) -> Preprocessing:
        """The contract of the model inside."""
        return Preprocessing.from_dict(self.manifest["contract"]["preprocessing"])

    def artifact(self, name: str) -> Path:
        """Return the path of an artifact.

        Raises:
            ValueError: There is none of that name; the message lists the others.
        """
        artifacts = self.manifest["artifacts"]
        if name not in artifacts:
            raise ValueError(f"{self.folder}: no artifact {name!r}; it holds {sorted(artifacts)}")
        return self.folder / str(artifacts[name]["file"])

    def head(self, name: str) -> Head:
        """Return a zero-shot head: description and vectors of a classification benchmark, or of ``ages``."""
        return read_heads(self.artifact("heads"))[name]


def read_export(folder: str | Path, expected: Preprocessing | None = None) -> Export:
    """Open an export folder and check every hash and contract.

    Args:
        folder: The folder that `make export` wrote.
        expected: Preprocessing of the caller's frames; None accepts the folder's own.

    Raises:
        FileNotFoundError: The folder, its manifest or an artifact is missing.
        ValueError: A file was changed after the export, or a contract differs.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the folder that `make export CKPT=...` wrote")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes()).model_dump()
    except ValidationError as error:
        raise ValueError(f"{path}: {problems(error)}; export again") from error
    if contract_digest(manifest["contract"]) != manifest["contract_sha256"]:
        raise ValueError(f"{path}: the preprocessing contract was edited after the export; export again")
    export = Export(folder, manifest)
    for name in manifest["artifacts"]:
        _check_artifact(export, name)
    if expected is not None and expected != export.preprocessing:
        theirs, ours = expected.to_dict(), export.preprocessing.to_dict()
        differing = [f"{key} is {ours[key]}, not {theirs[key]}" for key in ours if ours[key] != theirs[key]]
        raise ValueError(f"{folder}: made for another preprocessing: {'; '.join(differing)}")
    return export


def _check_artifact(export: Export, name: str) -> None:
    path = export.artifact(name)
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing, though manifest.json lists it; export again")
    if sha256(path) != export.manifest["artifacts"][name]["sha256"]:
        raise ValueError(
            f"{path}: its hash is not the manifest's, so the file was changed or replaced; export again"
        )
    if export.manifest["artifacts"][name]["kind"] not in TIED_KINDS:
        return
    for key in _missing_ties(path, {key: str(export.manifest[key]) for key in TIES}):
        raise ValueError(f"{path}: {TIES[key]}; export again")


def _missing_ties(path: Path, ties: Mapping[str, str]) -> list[str]:
    """Return the ties of a manifest that the metadata of a model or of the heads lack."""
    if path.suffix == ".mlpackage":
        # Read without coremltools: each tie is a SHA-256, so its text occurs in no other specification.
        content = b"".join(file.read_bytes() for file in path.rglob("*.mlmodel"))
        return [key for key, value in ties.items() if value.encode() not in content]
    if path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            return [key for key, value in ties.items() if (file.metadata() or {}).get(key) != value]
    metadata = onnx_metadata(path)
    return [key for key, value in ties.items() if metadata.get(METADATA_PREFIX + key) != value]
