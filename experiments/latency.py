"""Command line: ``python -m experiments.latency CKPT|EXPORT [--ci] [--baseline FILE] [--out FOLDER]``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from datamodules.protocol import Protocol
from experiments.export import load_student
from experiments.plain_errors import run_plainly
from export import Export, read_export
from export.latency.budgets import Verdict, over_budget, read_budgets
from export.latency.plot import draw
from export.latency.report import markdown
from export.latency.session import run_session, settle_protocol
from export.manifest import MANIFEST
from export.timing_export import write_timing_export
from models import DualEncoder, build

BUDGETS = Path(__file__).with_name("latency.yaml")
DEFAULT_MODEL = "random:MobileCLIP2-S0"
DEFAULT_OUT = Path("outputs/latency")


def parse(argv: list[str]) -> Any:
    """Read a command line."""
    parser = ArgumentParser(prog="make latency", description="Time a student against its budget.")
    parser.add_argument(
        "model", type=str, nargs="?", default=DEFAULT_MODEL, help="Checkpoint, export folder, or random:NAME."
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


def open_subject(name: str, scratch: Path, short: bool) -> tuple[Export, DualEncoder]:
    """Open an export, or write a small one of a checkpoint for timing alone."""
    if (Path(name) / MANIFEST).is_file():
        export = read_export(name)
        return export, build(export.manifest["source"]["recipe"]).eval()
    student = load_student(name)[0].eval()
    return write_timing_export(student, scratch, Protocol.load(), int8=not short), student


def write_report(record: dict[str, Any], folder: Path, baseline: dict[str, Any] | None) -> str:
    """Write latency.json, latency.md and latency.png; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(record, baseline)
    for name, content in (("latency.json", json.dumps(record, indent=1) + "\n"), ("latency.md", text)):
        partial = folder / f".{name}.partial"
        partial.write_text(content, encoding="utf-8")
        partial.replace(folder / name)
    draw(record, folder / "latency.png")
    return text


def run(argv: list[str]) -> None:
    """Run one command line.

    Raises:
        ValueError: A number is over its budget (all of them are named), or a file cannot be used.
    """
    options = parse(argv)
    budgets = read_budgets(options.budgets)
    baseline = None
    if options.baseline is not None:
        if not Path(options.baseline).is_file():
            raise FileNotFoundError(f"--baseline {options.baseline}: no such file")
        baseline = json.loads(Path(options.baseline).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        export, model = open_subject(options.model, Path(scratch), options.ci)
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
