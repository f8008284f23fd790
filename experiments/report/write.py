"""Write a report: of one run into its own folder, or of several into a file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from datamodules import FetalDataModule
from experiments.process import relative
from experiments.report.evidence import FILE as EVIDENCE_FILE
from experiments.report.evidence import collect, evidence_from_folder, read_evidence, try_collect
from experiments.report.page import Subject, render
from experiments.report.read_run import read_run
from experiments.report.reference import newest_static
from lightning_modules import DistillationModule
from models.files import write_text

FILE = "report.html"
COMPARISONS = Path("outputs/reports")


def report_finished_run(folder: Path, module: DistillationModule, data: FetalDataModule) -> Path:
    """Write ``report.html`` of a run that has just been scored, with the models and data at hand."""
    run = read_run(folder)
    found = try_collect(run, partial(collect, run, module.student, module.teacher, data))
    return _write([Subject(run, run.experiment, *found)], run.folder / FILE)


def write_report(folders: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write one HTML file about the runs in these folders, and return its path as the user would type it.

    `out` is the file; None for ``report.html`` in the folder of a single run, and for a file named by the time under
    ``outputs/reports/`` for several.
    """
    if out is not None and Path(out).is_dir():
        raise ValueError(f"OUT={out}: a folder; name the file, such as OUT={Path(out) / FILE}")
    runs = list({run.folder: run for run in map(read_run, folders)}.values())
    experiments, names = [run.experiment for run in runs], [run.name for run in runs]
    subjects = []
    for run in runs:
        found = read_evidence(run.folder)
        known = (found, "") if found is not None else try_collect(run, partial(evidence_from_folder, run))
        name = run.name if names.count(run.name) == 1 else relative(run.folder)
        title = run.experiment if experiments.count(run.experiment) == 1 else name
        subjects.append(Subject(run, title, *known))
    comparison = COMPARISONS / f"{datetime.now():%Y%m%d-%H%M%S}.html"
    default = runs[0].folder / FILE if len(runs) == 1 else comparison
    return _write(subjects, default if out is None else Path(out))


def _write(subjects: list[Subject], path: Path) -> Path:
    """Write the page; a run alone is compared with the newest run without repulsion that fits."""
    found = newest_static(subjects[0].run) if len(subjects) == 1 else None
    if found is not None:
        folder = relative(found.folder)
        print(f"note: the report compares with {folder}, the newest run without repulsion that fits")
        title = found.name if found.experiment == subjects[0].title else found.experiment
        evidence = read_evidence(found.folder)
        reason = f"{EVIDENCE_FILE} is absent or damaged; make report RUN={folder} writes it"
        subjects = [*subjects, Subject(found, title, evidence, "" if evidence is not None else reason)]
    write_text(path, render(subjects))
    return Path(relative(path.absolute()))
