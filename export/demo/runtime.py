"""ONNX Runtime for browsers: one pinned version, fetched by npm.

A tarball is verified by its SHA-512, a folder by its version.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from models.files import atomic

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
WASM = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU = ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
TIMEOUT_SECONDS = 300


def runtime_files(source: Path | None = None) -> dict[str, bytes]:
    """Return the runtime's files by name.

    Args:
        source: The package's folder (``node_modules/onnxruntime-web``) or its tarball (``npm pack``); None has npm
            fetch the tarball once and keeps it in the user's cache.

    Raises:
        ValueError: The package is another version, was changed, or cannot be fetched.
    """
    if source is not None and source.is_dir():
        return _from_folder(source)
    tarball = _cached() if source is None else source
    content = tarball.read_bytes()
    if not _intact(content):
        raise ValueError(f"{tarball}: not {PACKAGE} {VERSION}: its SHA-512 differs from the pinned one")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {name: _member(archive, f"package/dist/{name}") for name in (*WASM, *WEBGPU)}


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, name
    return file.read()


def _intact(content: bytes) -> bool:
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode() == INTEGRITY


def _from_folder(folder: Path) -> dict[str, bytes]:
    about = folder / "package.json"
    try:
        found = json.loads(about.read_text(encoding="utf-8"))
        known = (found["name"], found["version"]) == (PACKAGE, VERSION)
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ValueError(
            f"--runtime={folder}: not the folder of {PACKAGE} {VERSION} (npm install {PACKAGE}@{VERSION})"
        )
    return {name: (folder / "dist" / name).read_bytes() for name in (*WASM, *WEBGPU)}


def _cached() -> Path:
    """Return the tarball in the user's cache, fetched by npm when it is not there or was changed."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sonodistill"
    path = home / f"{PACKAGE}-{VERSION}.tgz"
    if path.is_file() and _intact(path.read_bytes()):
        return path
    remedy = (
        f"give it with --runtime=FOLDER (npm install {PACKAGE}@{VERSION}) or --runtime=FILE.tgz (npm pack)"
    )
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            f"{PACKAGE} {VERSION}: npm, which fetches it, is not installed; install Node.js, or {remedy}"
        )
    print(f"demo: fetching {PACKAGE} {VERSION} by npm (33 MB, once)", flush=True)
    with TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", f"--pack-destination={folder}", "--silent"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
            )
            failure = "" if done.returncode == 0 else f"npm pack ended with status {done.returncode}"
        except subprocess.TimeoutExpired:
            failure = f"npm pack took longer than {TIMEOUT_SECONDS} s"
        if failure:
            raise ValueError(f"{PACKAGE} {VERSION}: cannot be fetched ({failure}); {remedy}")
        content = (Path(folder) / path.name).read_bytes()
    if not _intact(content):
        raise ValueError(f"{PACKAGE} {VERSION}: its SHA-512 differs from the pinned one; nothing was kept")
    with atomic(path) as partial:
        partial.write_bytes(content)
    return path
