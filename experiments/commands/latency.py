"""Time a student against its budget.

usage: sonodistill latency [CKPT|EXPORT|random:NAME] [options]

An export is timed as it ships. Of a checkpoint only ONNX files are timed, written for this, int8 even where an export
would leave it out.

Exit status: 0 within budget, 1 over it, 2 a mistake, 3 not decidable on a machine this busy (after a second try).

  --ci                  short timing for shared machines; what it cannot decide passes; a CKPT is timed without int8
  --budgets=FILE        budgets and timing; default: experiments/recipes/latency.yaml
  --baseline=FILE       an earlier latency.json to compare with
  --device=NAME         name of this device in the budgets
  --iphone=NAME         time the iPhone of this name that is attached to this Mac
  --iphone_team=TEAM    team that signs the runner app
  --out=FOLDER          folder of the report; default: latency/ of the model's run
  --trust               build a class of another package that the model names
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from datamodules.evaluation.protocol import Protocol
from experiments.commands.export import load_model_to_export
from experiments.plain_errors import PlainErrorParser
from experiments.process import terminable
from experiments.recipe_files import LATENCY
from export import Export, read_export
from export.build import write_timing_export
from export.latency.budgets import Verdict, over_budget, read_budgets, undecided
from export.latency.report import markdown
from export.latency.session import run_session
from figures.latency import latency_figure
from figures.style import save_png
from models import DualEncoder, build
from models.checkpoints.trust import TRUST, apply_trust
from models.files import write_json, write_text
from models.student.manifest import MANIFEST

DEFAULT_MODEL = "random:MobileCLIP2-S0"
NOT_DECIDED = 3  # exit status
DEFAULT_OUT = Path("outputs/latency")


def parse(argv: list[str]) -> Any:
    """Read a command line."""
    parser = PlainErrorParser(prog=".venv/bin/python -m experiments latency")
    parser.add_argument("model", type=str, nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--budgets", type=str, default=str(LATENCY))
    for flag in ("--ci", TRUST):
        parser.add_argument(flag, action="store_true")
    for option in ("--baseline", "--device", "--iphone", "--iphone_team", "--out"):
        parser.add_argument(option, type=str | None, default=None)
    return parser.parse_args(argv)


def default_folder(model: str) -> Path:
    """Return the report's folder: ``latency/`` of the run of a checkpoint or export, else `DEFAULT_OUT`.

    ``outputs/EXP/RUN/checkpoints/best.ckpt`` and ``outputs/EXP/RUN/export`` both give ``outputs/EXP/RUN/latency``,
    where `make report` reads it.
    """
    path = Path(model)
    inside = path if path.is_dir() else path.parent
    run = inside.resolve().parent
    known = any((run / name).is_file() for name in ("results.json", "config.yaml"))
    return inside.parent / "latency" if inside.name in ("checkpoints", "export") and known else DEFAULT_OUT


def open_subject(name: str, scratch: Path, short: bool) -> tuple[Export, DualEncoder | str]:
    """Open an export, or write a small one of a checkpoint for timing only.

    Returns:
        The export, and its student, or why the student cannot be built here (`models.TransformersEncoder` needs the
        folder that it came from).
    """
    if (Path(name) / MANIFEST).is_file():
        export = read_export(name)
        try:
            return export, build(export.manifest["source"]["recipe"], name).eval()
        except (ValueError, OSError) as error:
            return export, f"the student cannot be rebuilt here: {error}"
    student = load_model_to_export(name)[0].eval()
    return write_timing_export(student, scratch, Protocol.load(), int8=not short), student


def read_baseline(path: str) -> dict[str, float] | None:
    """Read the ratios to the reference, by backend, from an earlier latency.json.

    Returns:
        The ratios; None, with a printed note, for another format: CI compares with the main branch's last file, which
        must not fail the commit that changes the format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--baseline {path}: no such file")
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["backends"]
        return {name: float(row["ratio"]["median"]) for name, row in rows.items() if "ratio" in row}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"latency: --baseline {path}: nothing is compared: {type(error).__name__}: {error}", flush=True)
        return None


def write_report(record: dict[str, Any], folder: Path, ratios_before: dict[str, float] | None) -> str:
    """Write latency.json (first: timing it took minutes), latency.md and latency.png; return the Markdown."""
    write_json(folder / "latency.json", record)
    text = markdown(record, ratios_before)
    write_text(folder / "latency.md", text)
    save_png(latency_figure(record), folder / "latency.png")
    return text


@terminable()
def main(argv: list[str]) -> int:
    """Run one command line; the exit status is 1 when a number is over its budget, 3 when one cannot be decided."""
    apply_trust(argv)
    options = parse(argv)
    budgets = read_budgets(options.budgets)
    ratios_before = None if options.baseline is None else read_baseline(options.baseline)
    folder = default_folder(options.model) if options.out is None else Path(options.out)
    # Found before minutes of timing.
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"--out={folder}: not a folder that can be written to; name another")
    with tempfile.TemporaryDirectory() as scratch:
        export, model = open_subject(options.model, Path(scratch), options.ci)
        if isinstance(model, str):
            print(f"latency: PyTorch is not timed, only the exported files: {model}", flush=True)
        phone = options.iphone, options.iphone_team
        record = run_session(export, model, budgets, options.ci, options.device, Path(scratch), phone)
    record["subject"] = options.model
    print(write_report(record, folder, ratios_before))
    print(f"latency.json, latency.md and latency.png: {folder}")
    verdicts = [Verdict(**verdict) for verdict in record["verdicts"]]
    if failed := over_budget(verdicts):
        print(f"latency: {failed}", file=sys.stderr)
        return 1
    if doubt := undecided(verdicts):
        print(f"latency: not decidable here: {doubt}", file=sys.stderr)
        return 0 if options.ci else NOT_DECIDED
    return 0
