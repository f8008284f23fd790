"""Open a web page on which a student reads frames in the browser, on this machine alone.

usage: sonodistill demo [CKPT|EXPORT] [options]

CKPT is a checkpoint, exported first where its run has no export; EXPORT is an export folder. Without either it is the
newest student in outputs.

  --build=FOLDER       write the page for a static host and end; default: demo/ beside the export, served
  --runtime=FILE       tarball of the npm package onnxruntime-web, instead of fetching it; once more for @litertjs/core
  --trust              build classes of other packages that the checkpoint names
  --port=8000          port of the server; 0 takes a free one
  --host=127.0.0.1     address of the server; a browser allows cameras on localhost or with https only
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.process import Parser, terminable
from experiments.recipe_files import QUANTISED_EXPERIMENT, TEACHER_EXPERIMENT
from export.demo.build import build_demo
from export.demo.server import server_of
from export.package.manifest import read_export
from models.checkpoints.inspection import STUDENT
from models.checkpoints.weights import read_entry
from models.files import sha256
from models.student.manifest import MANIFEST

STUDENTS = "*/*/checkpoints/best.ckpt"
# A teacher is too large, and a quantised student has no export.
NOT_SHOWN = (TEACHER_EXPERIMENT, QUANTISED_EXPERIMENT)


def parse(argv: list[str]) -> Any:
    """Read a command line."""
    parser = Parser(prog="sonodistill demo", description=__doc__)
    parser.add_argument("student", type=Path, nargs="?")
    parser.add_argument("--build", type=Path)
    parser.add_argument("--runtime", type=Path, action="append", default=[])
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1")
    return parser.parse_args(argv)


@terminable()
def main(argv: list[str]) -> int:
    """Run one command line."""
    options = parse(argv)
    for tarball in options.runtime:
        if not tarball.is_file():
            raise FileNotFoundError(f"--runtime={tarball}: no such file")
    student = options.student or newest_student(Path("outputs"))
    export = student if (student / MANIFEST).is_file() else _exported(student, options.trust)
    if export is None:
        return 1
    folder = build_demo(export, options.build or export.resolve().parent / "demo", options.runtime)
    if options.build is not None:
        print(f"demo: the page of {export} is in {folder}; put it on any static host")
        return 0
    with server_of(folder, options.host, options.port) as server:
        print(
            f"demo: http://{options.host}:{server.server_port}/ serves {folder}; Ctrl-C stops it", flush=True
        )
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


def newest_student(outputs: Path) -> Path:
    """Return the newest checkpoint of a student in the runs' folder."""
    found = [path for path in outputs.glob(STUDENTS) if path.parts[-4] not in NOT_SHOWN]
    if not found:
        raise FileNotFoundError(
            f"{outputs}: no trained student; make train EXP=srkd, or give CKPT= or EXPORT="
        )
    newest = max(found, key=lambda path: path.stat().st_mtime)
    print(f"demo: {newest}", flush=True)
    return newest


def _exported(checkpoint: Path, trust: bool) -> Path | None:
    """Return the export of a checkpoint, written where its run has none; None when it missed its gates."""
    from experiments.commands.export import default_target, require_model
    from experiments.commands.export import main as export_main

    require_model(checkpoint)
    target = default_target(str(checkpoint))
    if not (target / MANIFEST).is_file():
        print(
            f"demo: exporting to {target}, without Core ML (make export CKPT={checkpoint} writes everything)",
            flush=True,
        )
        options = ["--skip=coreml", *(["--trust"] if trust else [])]
        contract = (read_entry(checkpoint, STUDENT) or {}).get("preprocessing", {})
        if contract.get("tokenizer") == "fetal":  # a full-size text tower is larger than the page
            options.append("--text_encoder=true")
        return None if export_main([str(checkpoint), *options]) else target
    if read_export(target).manifest["source"].get("checkpoint_sha256") != sha256(checkpoint):
        raise ValueError(f"{target}: made from another checkpoint; make export CKPT={checkpoint} first")
    return target
