"""Write a report: of one run into its own folder, or of several into a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules import FetalDataModule
from experiments.report.compare import relative
from experiments.report.evidence import FILE as EVIDENCE_FILE
from experiments.report.evidence import Evidence, collect, read_evidence, write_evidence
from experiments.report.page import Subject, render
from experiments.report.read_run import Run, read_run
from experiments.report.rebuild import evidence_from_folder
from experiments.report.reference import newest_static

if TYPE_CHECKING:
    from lightning_modules import DistillationModule

FILE = "report.html"
COMPARISONS = Path("outputs/reports")


def report_finished_run(folder: Path, module: DistillationModule, data: FetalDataModule) -> Path:
    """Write the report of a run that has just been scored, with the models and data at hand.

    Like every report of a single run it compares with the newest ``static-kd`` run that fits, where there is one.

    Args:
        folder: The run's folder, ``results.json`` and the rest written.
        module: Holds the scored student and the teacher.
        data: The data module.

    Returns:
        ``report.html`` in the folder.
    """
    run = read_run(folder)
    found, lacking = _attempt(run, lambda: collect(run, module.student, module.teacher, data))
    return _write(_compared(Subject(run, run.experiment, found, lacking)), run.folder / FILE)


def write_report(folders: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write one HTML file about one or more runs.

    Args:
        folders: Run folders.
        out: The file; None for ``report.html`` in the folder of a single run, and for a file named by the
            time under ``outputs/reports/`` for several.

    Returns:
        The file.

    Raises:
        FileNotFoundError: A folder is absent or its run has not finished.
        ValueError: A file in it is damaged, or `out` is a folder.
    """
    if out is not None and Path(out).is_dir():
        raise ValueError(f"OUT={out}: a folder; name the file, such as OUT={Path(out) / FILE}")
    runs = list({run.folder: run for run in map(read_run, folders)}.values())
    if not runs:
        raise ValueError(
            'RUN is empty; name run folders: make report RUN="outputs/srkd/RUN outputs/no-kd/RUN"'
        )
    subjects = [Subject(run, title, *_evidence(run)) for run, title in zip(runs, titles(runs), strict=True)]
    if len(subjects) == 1:
        subjects = _compared(subjects[0])
    return _write(subjects, Path(out) if out is not None else _default_path(runs))


def _compared(subject: Subject) -> list[Subject]:
    """Add the run without repulsion that a run alone is compared with, with the evidence that it has kept."""
    found = newest_static(subject.run)
    if found is None:
        return [subject]
    print(
        f"note: the report compares with {relative(found.folder)}, the newest run without repulsion that fits"
    )
    title = found.name if found.experiment == subject.title else found.experiment
    evidence = read_evidence(found.folder)
    lacking = f"{EVIDENCE_FILE} is absent or damaged; make report RUN={relative(found.folder)} writes it"
    return [subject, Subject(found, title, evidence, "" if evidence is not None else lacking)]


def _write(subjects: Sequence[Subject], path: Path) -> Path:
    """Write the page whole or not at all."""
    text = render(subjects)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def _evidence(run: Run) -> tuple[Evidence | None, str]:
    """Return a run's evidence, worked out now where it is not there yet, or why it cannot be had."""
    found = read_evidence(run.folder)
    return (found, "") if found is not None else _attempt(run, lambda: evidence_from_folder(run))


def _attempt(run: Run, make: Callable[[], Evidence]) -> tuple[Evidence | None, str]:
    """Make and keep evidence; without it the numbers still make a report, which then says what is missing."""
    try:
        found = make()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"note: {run.name}: no projections and no images in the report: {error}", file=sys.stderr)
        return None, str(error)
    write_evidence(found, run.folder)
    return found, ""


def titles(runs: Sequence[Run]) -> list[str]:
    """Name runs by their experiment where that tells them apart, else by their folder too."""
    experiments = [run.experiment for run in runs]
    return [run.experiment if experiments.count(run.experiment) == 1 else run.name for run in runs]


def _default_path(runs: Sequence[Run]) -> Path:
    if len(runs) == 1:
        return runs[0].folder / FILE
    return COMPARISONS / f"{datetime.now():%Y%m%d-%H%M%S}.html"
