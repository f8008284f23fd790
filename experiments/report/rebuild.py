"""Build a run's models and data again from its folder, for a report that is written later."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from datamodules import FetalDataModule
from experiments.report.evidence import Evidence, collect
from experiments.report.read_run import Run
from models import DualEncoder, freeze, from_checkpoint
from models.trust import check_classes, refused


def evidence_from_folder(run: Run) -> Evidence:
    """Work out the evidence of a run from its checkpoint, its configuration and the data.

    Raises:
        FileNotFoundError: The checkpoint, the teacher or the data are not there.
        ValueError: The configuration cannot be built again.
    """
    config = run.config
    if not config:
        raise FileNotFoundError(
            f"{run.folder / 'config.yaml'}: absent, so models and data cannot be found again"
        )
    lacking = [name for name in ("model", "data") if not isinstance(config.get(name), dict)]
    if lacking:
        raise ValueError(f"{run.folder / 'config.yaml'}: lacks {lacking}, so they cannot be built again")
    student = from_checkpoint(str(checkpoint_of(run)))
    check_classes([config["model"].get("teacher"), config["data"]], str(run.folder / "config.yaml"))
    teacher = _build("--teacher", DualEncoder, config["model"].get("teacher"))
    data = _build("--data", FetalDataModule, config["data"])
    return collect(run, student.eval(), None if teacher is None else freeze(teacher), data)


def checkpoint_of(run: Run) -> Path:
    """Return the checkpoint that was scored: in the run's folder, or where ``results.json`` says.

    Raises:
        FileNotFoundError: It is in neither place.
    """
    recorded = str(run.record.get("selection", {}).get("checkpoint") or "")
    places = [run.folder / "checkpoints" / (Path(recorded).name or "best.ckpt"), Path(recorded)]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"{places[0]}: no such checkpoint, so the student cannot be built again")


def _build(option: str, kind: type, content: dict[str, Any] | None) -> Any:
    """Instantiate one part of a configuration, as the Lightning CLI does."""
    if content is None:
        return None
    parser = ArgumentParser(exit_on_error=False, logger=logging.getLogger("null"))
    name = option.removeprefix("--")
    parser.add_argument(option, type=kind)
    try:
        checked = parser.parse_object({name: content})
        return parser.instantiate(Namespace(checked))[name]
    except FileNotFoundError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = refused(error) or lines[-1].strip()
        raise ValueError(f"config.yaml, {name}: cannot be built again ({reason})") from error
