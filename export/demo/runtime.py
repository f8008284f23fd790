"""Runtimes for browsers: npm packages of one version, fetched once and verified by their SHA-512."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Runtime:
    """An npm package.

    Attributes:
        package: Its name.
        version: Its version.
        integrity: SHA-512 of its tarball as npm writes it.
        megabytes: Size of the tarball.
        files: Path of a file on the page, and within the package.
    """

    package: str
    version: str
    integrity: str
    megabytes: int
    files: dict[str, str]

    def is_in(self, tarball: Path) -> bool:
        """Return whether a file is this package, unchanged."""
        digest = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
        return self.integrity == f"sha512-{digest}"

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


_ORT = (
    "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm",
)  # fmt: skip
ONNX_RUNTIME = Runtime(
    "onnxruntime-web",
    "1.30.0",
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    33,
    {f"ort/{name}": f"dist/{name}" for name in _ORT},
)
LITERT = Runtime(
    "@litertjs/core",
    "2.5.3",
    "sha512-PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
    12,
    {
        "litert/core.js": "dist/index.js",
        "litert/module.js": "wasm/litert_wasm_internal.js",
        "litert/module.wasm": "wasm/litert_wasm_internal.wasm",
    },
)


def runtime_files(runtime: Runtime, tarballs: Sequence[Path] = ()) -> dict[str, bytes]:
    """Return a runtime's files by their paths on the page.

    Args:
        runtime: The package.
        tarballs: Packages at hand (``npm pack``). Without the runtime's among them npm fetches it once, and it is kept
            in the user's cache.

    Raises:
        ValueError: A tarball is no such package, or the runtime cannot be fetched.
    """
    for tarball in tarballs:
        if not any(known.is_in(tarball) for known in (ONNX_RUNTIME, LITERT)):
            raise ValueError(
                f"{tarball}: neither {ONNX_RUNTIME} nor {LITERT}: its SHA-512 differs from the pinned ones"
            )
    tarball = next(filter(runtime.is_in, tarballs), None) or _cached(runtime)
    with tarfile.open(tarball) as archive:
        return {
            path: archive.extractfile(f"package/{name}").read()  # type: ignore[union-attr]
            for path, name in runtime.files.items()
        }


def litert_files(tarballs: Sequence[Path] = ()) -> dict[str, bytes]:
    """Return LiteRT.js as modules for a module worker, where the package's own loader cannot add a script."""
    files = runtime_files(LITERT, tarballs)
    files["litert/core.js"] = files["litert/core.js"].replace(b'"@litertjs/wasm-utils"', b'"../litert.js"')
    files["litert/module.js"] += b"\nexport default ModuleFactory;\n"
    return files


def _cached(runtime: Runtime) -> Path:
    """Return the tarball in the user's cache, fetched by npm when it is not there or was changed."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sonodistill"
    path = home / f"{runtime.package.removeprefix('@').replace('/', '-')}-{runtime.version}.tgz"
    if path.is_file() and runtime.is_in(path):
        return path
    wanted = f"{runtime.package}@{runtime.version}"
    npm, remedy = shutil.which("npm"), f"give it with --runtime=FILE.tgz (npm pack {wanted})"
    if npm is None:
        raise ValueError(f"{runtime}: npm, which fetches it, is not installed; install Node.js, or {remedy}")
    print(f"demo: fetching {runtime} by npm ({runtime.megabytes} MB, once)", flush=True)
    home.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", wanted, f"--pack-destination={home}", "--loglevel=error"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.split())[:200] or f"status {done.returncode}"
        raise ValueError(f"{runtime}: npm pack failed ({reason}); {remedy}")
    if not runtime.is_in(path):
        raise ValueError(f"{path}: not {runtime}: its SHA-512 differs from the pinned one")
    return path
