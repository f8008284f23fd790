"""ONNX Runtime for browsers: one pinned version, fetched by npm and verified by its SHA-512."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
WASM = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU = ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm")


def runtime_files(source: Path | None = None) -> dict[str, bytes]:
    """Return the runtime's files by name.

    Args:
        source: The package's tarball (``npm pack``); None has npm fetch it once and keeps it in the user's cache.

    Raises:
        ValueError: The package is another version, was changed, or cannot be fetched.
    """
    tarball = source or _cached()
    if not _intact(tarball):
        raise ValueError(f"{tarball}: not {PACKAGE} {VERSION}: its SHA-512 differs from the pinned one")
    with tarfile.open(tarball) as archive:
        return {name: archive.extractfile(f"package/dist/{name}").read() for name in (*WASM, *WEBGPU)}  # type: ignore[union-attr]


def _intact(tarball: Path) -> bool:
    return "sha512-" + base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode() == INTEGRITY


def _cached() -> Path:
    """Return the tarball in the user's cache, fetched by npm when it is not there or was changed."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sonodistill"
    path = home / f"{PACKAGE}-{VERSION}.tgz"
    if path.is_file() and _intact(path):
        return path
    npm, remedy = shutil.which("npm"), f"give it with --runtime=FILE.tgz (npm pack {PACKAGE}@{VERSION})"
    if npm is None:
        raise ValueError(
            f"{PACKAGE} {VERSION}: npm, which fetches it, is not installed; install Node.js, or {remedy}"
        )
    print(f"demo: fetching {PACKAGE} {VERSION} by npm (33 MB, once)", flush=True)
    home.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", f"--pack-destination={home}", "--silent"]
    if status := subprocess.run(command, capture_output=True, check=False).returncode:
        raise ValueError(f"{PACKAGE} {VERSION}: npm pack ended with status {status}; {remedy}")
    return path
