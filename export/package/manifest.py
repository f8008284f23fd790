"""manifest.json: contents of an export folder, and a reader that rejects changed or mismatched files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from safetensors import safe_open

from export.graphs.contract import METADATA_PREFIX, TIES, contract_digest
from export.graphs.onnx_graph import onnx_interface
from models import Preprocessing
from models.files import sha256, write_json
from models.messages import error_line
from models.student.manifest import FORMAT, MANIFEST, artifact_path, checked_heads, read_manifest, seal
from models.student.onnx_files import Head

PACKAGES = (
    "torch", "timm", "open_clip_torch", "onnx", "onnxscript", "onnxruntime", "coremltools", "openvino", "numpy",
    "litert-torch", "ai-edge-quantizer", "ai-edge-litert",
)  # fmt: skip
"""Distributions whose versions a manifest records."""

TIED_KINDS = ("onnx", "coreml", "heads")
"""Kinds of artifacts whose metadata hold the ties to contract and student."""


def artifact_entry(path: Path, root: Path, **facts: Any) -> dict[str, Any]:
    """Describe one file or package for the manifest: place, size, hash, and the given facts."""
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return {"file": path.relative_to(root).as_posix(), "bytes": size, "sha256": sha256(path), **facts}


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write manifest.json, sealed."""
    write_json(folder / MANIFEST, seal({"format": FORMAT, **content}))


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
        return Preprocessing(**self.manifest["contract"]["preprocessing"])

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
        return checked_heads(self.folder, self.manifest)[name]


def read_export(folder: str | Path) -> Export:
    """Open the folder that `make export` wrote, and check every hash and contract.

    Raises:
        FileNotFoundError: The folder, its manifest or an artifact is missing.
        ValueError: A file was changed after the export, or a contract differs.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    path = folder / MANIFEST
    if contract_digest(manifest["contract"]) != manifest["contract_sha256"]:
        raise ValueError(f"{path}: the preprocessing contract was edited after the export; export again")
    export = Export(folder, manifest)
    checked_heads(folder, manifest)  # before their metadata are read
    for name, entry in manifest["artifacts"].items():
        artifact_path(folder, manifest, name)
        if entry["kind"] in TIED_KINDS:
            _check_ties(export, name)
    return export


def _check_ties(export: Export, name: str) -> None:
    """Check the hashes in an artifact's metadata, and that a graph is the one of its name, output and batch."""
    path, entry = export.artifact(name), export.manifest["artifacts"][name]
    ties = {key: str(export.manifest[key]) for key in TIES}
    if path.suffix == ".mlpackage":
        # Read without coremltools: each tie is a SHA-256, so its text occurs in no other specification.
        content = b"".join(file.read_bytes() for file in path.rglob("*.mlmodel"))
        found = {key: value for key, value in ties.items() if value.encode() in content}
    elif path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            found = file.metadata() or {}
    else:
        try:
            metadata, (output, batch) = onnx_interface(path)
        except (DecodeError, ValueError) as error:
            raise ValueError(f"{path}: not an ONNX file ({error_line(error)}); export again") from error
        found = {key: metadata.get(METADATA_PREFIX + key, "") for key in (*TIES, "artifact")}
        own = {"artifact": (found["artifact"], name), "output": (output, entry.get("output")),
               "batch": (batch or "any", entry.get("batch"))}  # fmt: skip
        for key, (real, said) in own.items():
            if real != said:
                raise ValueError(
                    f"{path}: its {key} is {real!r}, not {said!r} as in {MANIFEST}; export again"
                )
    for key, value in ties.items():
        if found.get(key) != value:
            raise ValueError(f"{path}: {TIES[key]}; export again")
