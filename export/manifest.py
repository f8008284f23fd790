"""manifest.json: what an export folder holds, and a reader that refuses what does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract import METADATA_DIGEST, contract_digest
from export.heads import read_head
from export.onnx_graph import onnx_metadata
from export.provenance import sha256, size_bytes
from models import Preprocessing

FORMAT = 1
MANIFEST = "manifest.json"


def artifact_entry(path: Path, root: Path, **facts: Any) -> dict[str, Any]:
    """Describe one file or package for the manifest: place, size, hash, and the given facts."""
    return {
        "file": path.relative_to(root).as_posix(),
        "bytes": size_bytes(path),
        "sha256": sha256(path),
        **facts,
    }


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write manifest.json; `content` needs ``contract`` and ``artifacts`` (name -> `artifact_entry`)."""
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
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the folder that `make export CKPT=...` wrote")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{path}: format {manifest.get('format')!r} is not {FORMAT}; export again")
    digest = contract_digest(manifest["contract"])
    if digest != manifest["contract_sha256"]:
        raise ValueError(f"{path}: the preprocessing contract was edited after the export; export again")
    export = Export(folder, manifest)
    for name in manifest["artifacts"]:
        _check_artifact(export, name, digest)
    if expected is not None and expected != export.preprocessing:
        theirs, ours = expected.to_dict(), export.preprocessing.to_dict()
        differing = [f"{key} is {ours[key]}, not {theirs[key]}" for key in ours if ours[key] != theirs[key]]
        raise ValueError(f"{folder}: made for another preprocessing: {'; '.join(differing)}")
    return export


def _check_artifact(export: Export, name: str, digest: str) -> None:
    path = export.artifact(name)
    if not path.exists():
        raise FileNotFoundError(f"{path}: the manifest names this file and it is absent; export again")
    if sha256(path) != export.manifest["artifacts"][name]["sha256"]:
        raise ValueError(
            f"{path}: its hash is not the manifest's; the file was changed or mixed up, export again"
        )
    stranger = path.suffix == ".onnx" and onnx_metadata(path).get(METADATA_DIGEST) != digest
    if stranger or (path.suffix == ".mlpackage" and not _package_carries(path, digest)):
        raise ValueError(f"{path}: it was exported under another preprocessing contract; export again")
    if name.startswith("head_"):
        read_head(path)


def _package_carries(package: Path, digest: str) -> bool:
    """Tell whether a Core ML package's metadata hold the contract's digest, without coremltools.

    The specification is a protocol buffer; an entry of its metadata is key, tag of the value, length, value.
    """
    entry = METADATA_DIGEST.encode() + b"\x12" + bytes([len(digest)]) + digest.encode()
    return any(entry in path.read_bytes() for path in package.rglob("*.mlmodel"))
