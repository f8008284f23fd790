"""Command line: ``python -m experiments.latency CKPT|EXPORT [--ci] [--baseline FILE] [--out FOLDER]``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from datamodules.protocol import Protocol
from experiments.export import load_student
from experiments.plain_errors import PlainErrorParser, run_plainly
from export import Export, read_export
from export.latency.budget_file import read_budgets, settle_protocol
from export.latency.budgets import Verdict, over_budget
from export.latency.plot import draw
from export.latency.report import markdown
from export.latency.session import run_session
from export.manifest import MANIFEST
from export.timing_export import write_timing_export
from models import DualEncoder, build
from models.trust import TRUST, settle_trust

BUDGETS = Path(__file__).with_name("latency.yaml")
DEFAULT_MODEL = "random:MobileCLIP2-S0"
DEFAULT_OUT = Path("outputs/latency")


def parse(argv: list[str]) -> Any:
    """Read a command line."""
    parser = PlainErrorParser(
        prog=".venv/bin/python -m experiments.latency", description="Time a student against its budget."
    )
    parser.add_argument(
        "model", type=str, nargs="?", default=DEFAULT_MODEL, help="Checkpoint, export folder, or random:NAME."
    )
    parser.add_argument(
        TRUST, action="store_true", help="Build a class of another package that the model names."
    )
    parser.add_argument("--ci", action="store_true", help="The short protocol, without int8.")
    parser.add_argument("--budgets", type=str, default=str(BUDGETS), help="File of budgets and protocol.")
    parser.add_argument(
        "--baseline", type=str | None, default=None, help="An earlier latency.json to compare."
    )
    parser.add_argument(
        "--device", type=str | None, default=None, help="Name of this device, as budgets have it."
    )
    parser.add_argument(
        "--iphone", type=str | None, default=None, help="Time the iPhone attached to this Mac, by this name."
    )
    parser.add_argument(
        "--iphone_team", type=str | None, default=None, help="Team that signs the runner app."
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Folder of the report; default: latency/ of the model's run.",
    )
    return parser.parse_args(argv)


def default_folder(model: str) -> Path:
    """Return where a model's times belong: ``latency/`` of the run folder that it lies in, as the report reads it.

    Args:
        model: Checkpoint, export folder, or ``random:NAME``.

    Returns:
        ``outputs/EXP/RUN/latency`` for ``outputs/EXP/RUN/checkpoints/best.ckpt`` and ``outputs/EXP/RUN/export``,
        else ``outputs/latency``.
    """
    path = Path(model)
    inside = path if path.is_dir() else path.parent
    run = inside.resolve().parent
    known = any((run / name).is_file() for name in ("results.json", "config.yaml"))
    return inside.parent / "latency" if inside.name in ("checkpoints", "export") and known else DEFAULT_OUT


def open_subject(name: str, scratch: Path, short: bool) -> tuple[Export, DualEncoder | str]:
    """Open an export, or write a small one of a checkpoint for timing alone.

    Returns:
        The export, and its student, or why that cannot be rebuilt here (`models.TransformersEncoder` needs the folder
        that it came from).
    """
    if (Path(name) / MANIFEST).is_file():
        export = read_export(name)
        try:
            return export, build(export.manifest["source"]["recipe"], name).eval()
        except (ValueError, OSError) as error:
            return export, f"the student cannot be rebuilt here: {error}"
    student = load_student(name)[0].eval()
    return write_timing_export(student, scratch, Protocol.load(), int8=not short), student


def read_baseline(path: str) -> dict[str, Any] | None:
    """Read an earlier latency.json; None, with a note, for one of another format: an older release wrote it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not one that `make latency` wrote.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--baseline {path}: no such file")
    record: Any = None
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        for row in record["backends"].values():
            if "ratio" in row:
                float(row["ratio"]["median"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(record, dict) and {"machine", "protocol"} <= set(record):
            print(
                f"latency: --baseline {path}: of another format ({reason}); nothing is compared", flush=True
            )
            return None
        raise ValueError(
            f"--baseline {path}: no latency.json of make latency, its backends: {reason}"
        ) from error
    return dict(record)


def write_report(record: dict[str, Any], folder: Path, baseline: dict[str, Any] | None) -> str:
    """Write latency.json (first: it holds what took minutes), latency.md and latency.png; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "latency.json", json.dumps(record, indent=1) + "\n")
    text = markdown(record, baseline)
    _replace(folder / "latency.md", text)
    draw(record, folder / "latency.png")
    return text


def _replace(path: Path, content: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)


def run(argv: list[str]) -> None:
    """Run one command line.

    Raises:
        ValueError: A number is over its budget (all of them are named), or a file cannot be used.
    """
    settle_trust(argv)
    options = parse(argv)
    budgets = read_budgets(options.budgets)
    baseline = None if options.baseline is None else read_baseline(options.baseline)
    with tempfile.TemporaryDirectory() as scratch:
        export, model = open_subject(options.model, Path(scratch), options.ci)
        if isinstance(model, str):
            print(f"latency: PyTorch is not timed, the exported files alone: {model}", flush=True)
        protocol = settle_protocol(budgets, options.ci)
        phone = None if options.iphone is None else (options.iphone, options.iphone_team)
        record = run_session(export, model, budgets, protocol, options.device, Path(scratch), phone)
    record["subject"] = options.model
    folder = default_folder(options.model) if options.out is None else Path(options.out)
    print(write_report(record, folder, baseline))
    print(f"latency.json, latency.md and latency.png: {folder}")
    failed = over_budget([Verdict(**verdict) for verdict in record["verdicts"]])
    if failed:
        raise ValueError(f"latency: {failed}")


if __name__ == "__main__":
    run_plainly(run)
