"""manifest.json: what an export folder holds, and a reader that refuses what does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract import METADATA_PREFIX, TIES, contract_digest
from export.heads import read_head
from export.onnx_graph import onnx_metadata
from export.provenance import sha256, size_bytes
from models import Preprocessing

FORMAT = 1
MANIFEST = "manifest.json"
REQUIRED = {"contract": dict, "contract_sha256": str, "model_sha256": str, "source": dict, "artifacts": dict}
REQUIRED_OF_ARTIFACT = {"file": str, "sha256": str, "kind": str, "bytes": int}


def artifact_entry(path: Path, root: Path, **facts: Any) -> dict[str, Any]:
    """Describe one file or package for the manifest: place, size, hash, and the given facts."""
    return {
        "file": path.relative_to(root).as_posix(),
        "bytes": size_bytes(path),
        "sha256": sha256(path),
        **facts,
    }


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write manifest.json; `content` needs all of `REQUIRED` but the contract's hash."""
    values = {"format": FORMAT, "contract_sha256": contract_digest(content["contract"]), **content}
    (folder / MANIFEST).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Export:
    """An export folder whose files are what its manifest says.

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
        entry = self.manifest["artifacts"].get(name)
        if entry is None:
            raise ValueError(
                f"{self.folder}: no artifact {name!r}; it holds {sorted(self.manifest['artifacts'])}"
            )
        return self.folder / str(entry["file"])

    def head(self, name: str) -> tuple[dict[str, Any], NDArray[np.float32]]:
        """Return a zero-shot head (``planes``, ``subplanes`` or ``ages``): description and vectors."""
        return read_head(self.artifact(f"head_{name}"))


def read_export(folder: str | Path, expected: Preprocessing | None = None) -> Export:
    """Open an export folder, checking every hash and every contract.

    Args:
        folder: The folder that `make export` wrote.
        expected: The contract that the caller's frames follow; None accepts the folder's own.

    Raises:
        FileNotFoundError: The folder, its manifest or an artifact is absent.
        ValueError: A file is not the one that was exported, or a contract does not fit.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    manifest = _read_manifest(path)
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


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the folder that `make export CKPT=...` wrote")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error}); export again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise ValueError(f"{path}: format {found!r} is not {FORMAT}; export again")
    _require(manifest, REQUIRED, f"{path}: ")
    for name, entry in manifest["artifacts"].items():
        _require(entry, REQUIRED_OF_ARTIFACT, f"{path}: artifacts.{name}.")
    return manifest


def _require(values: Any, types: Mapping[str, type], place: str) -> None:
    for key, kind in types.items():
        if not isinstance(values, dict) or not isinstance(values.get(key), kind):
            raise ValueError(f"{place}{key} is missing or damaged; export again")


def _check_artifact(export: Export, name: str) -> None:
    path = export.artifact(name)
    if not path.exists():
        raise FileNotFoundError(f"{path}: the manifest names this file and it is absent; export again")
    if sha256(path) != export.manifest["artifacts"][name]["sha256"]:
        raise ValueError(
            f"{path}: its hash is not the manifest's; the file was changed or mixed up, export again"
        )
    is_head = name.startswith("head_")
    ties = {key: str(export.manifest[key]) for key in TIES}
    for key in _strange(path, ties, is_head):
        raise ValueError(f"{path}: {TIES[key]}; export again")
    if is_head:
        read_head(path)


def _strange(path: Path, ties: Mapping[str, str], is_head: bool) -> list[str]:
    """Return which of a manifest's ties a model or a head does not carry; other files carry none.

    A Core ML package is read without coremltools: its specification is a protocol buffer, and an entry of the metadata
    is key, tag of the value, length, value.
    """
    if path.suffix == ".mlpackage":
        content = b"".join(file.read_bytes() for file in path.rglob("*.mlmodel"))
        entries = {
            key: f"{METADATA_PREFIX}{key}".encode() + b"\x12" + bytes([len(value)]) + value.encode()
            for key, value in ties.items()
        }
        return [key for key, entry in entries.items() if entry not in content]
    if is_head:
        head = json.loads(path.read_text(encoding="utf-8"))
        return [key for key, value in ties.items() if head.get(key) != value]
    if path.suffix == ".onnx":
        metadata = onnx_metadata(path)
        return [key for key, value in ties.items() if metadata.get(METADATA_PREFIX + key) != value]
    return []
