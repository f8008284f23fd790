"""Evaluate the published teacher, the released student and a student trained here as the paper does.

Every model is scored on all images of HC18 and FETAL_PLANES_DB, and its scores are printed beside the paper's and those
of the authors' repository.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.config import PROTOCOL_OPTION, STUDENT_OPTION, TEACHER_OPTION
from experiments.paper import PAPER, RELEASED
from experiments.runs.input_digests import content_digest, content_digests, corpus_digests
from experiments.runs.run_folder import OUTPUTS
from experiments.runs.run_record import run_config
from experiments.suites.suite_runs import SuiteRun, execute_all
from experiments.suites.table import all_columns, to_markdown
from metrics.benchmarks import BENCHMARKS
from metrics.names import CONSTANT, PIXEL_SIZE, final_name, formatted, interval_names, model_titles
from models.files import digest, write_text

CKPT = "--ckpt"
# Inputs -> where they come from.
SOURCES = {
    TEACHER_OPTION: "FetalCLIP_weights.pt of huggingface.co/numansaeed/fetalclip-model",
    STUDENT_OPTION: "mobile_fetal_clip_weights.pt of huggingface.co/numansaeed/MobileFetalCLIP",
    PROTOCOL_OPTION: "git clone https://github.com/BioMedIA-MBZUAI/FetalCLIP; make import-protocol FROM=FetalCLIP "
    "OUT=data/protocol.json",
    CKPT: "make train writes outputs/EXP/RUN/checkpoints/best.ckpt",
}
PRESETS = ("hc18", "planes")
# The paper scores every image, and its table has no frozen embeddings.
AS_THE_PAPER = (
    "--planes.test_split=all", "--biometry.test_split=all", "--representation.enabled=false", "--quick=false",
)  # fmt: skip
TABLE = OUTPUTS / "tables" / "published.md"


@dataclass(frozen=True)
class EvaluationRun(SuiteRun):
    """One evaluation of the file `model`, in a folder named by the contents of all its inputs."""

    model: str = ""
    contents: str = ""

    @property
    def folder(self) -> Path:
        """The evaluation's folder."""
        return OUTPUTS / "evaluate" / f"{self.experiment}-{self.preset}-{self.contents}"

    def command(self) -> list[str]:
        """Return the command that evaluates."""
        command = [sys.executable, "-m", "experiments", "evaluate", self.preset, self.model, *AS_THE_PAPER]
        return [*command, *self.arguments, f"--run={self.folder.name}"]


def missing_inputs(files: Mapping[str, str | None]) -> list[str]:
    """Return one line for each input that is not there: what it is and where to get it.

    Args:
        files: Options of `SOURCES` -> path; None where none was given.
    """
    lines = []
    for option, source in SOURCES.items():
        path, variable = files[option], option.removeprefix("--").upper()
        if path is None and option != CKPT:
            lines.append(f"{variable}=file is missing: {source}")
        elif path is not None and not Path(path).is_file():
            lines.append(f"{variable}={path}: no such file; {source}")
    for preset in PRESETS:
        try:
            corpus_digests(preset, ())
        except FileNotFoundError as error:
            lines.append(str(error))
    return lines


def plan(files: Mapping[str, str | None], options: Sequence[str]) -> list[EvaluationRun]:
    """Return the evaluations: of released student and teacher, and of the student trained here, on both corpora."""
    teacher, student, protocol, ckpt = (files[option] for option in SOURCES)
    models = {"published": (student, [f"{TEACHER_OPTION}={teacher}"])}
    if ckpt:
        models["own"] = (ckpt, ["--model.teacher=null"])
    runs = []
    for name, (model, own) in models.items():
        arguments = [*own, f"{PROTOCOL_OPTION}={protocol}", *options]
        weights = {**content_digests(arguments), "scored": content_digest(Path(str(model)))}
        for preset in PRESETS:
            contents = digest([weights, corpus_digests(preset, options), list(options)])[:12]
            runs.append(EvaluationRun(name, preset, 0, tuple(arguments), model=str(model), contents=contents))
    return runs


def compare(files: Mapping[str, str | None], options: Sequence[str] = ()) -> int:
    """Evaluate what has not been evaluated, print the comparison and write it to `TABLE`.

    Args:
        files: Options of `SOURCES` -> path; None where none was given.
        options: Options of ``sonodistill evaluate``.

    Returns:
        0, 1 when an evaluation failed, 130 or 143 after an interruption.
    """
    if lines := missing_inputs(files):
        raise ValueError("\nerror: ".join(lines))
    runs = plan(files, options)
    if status := execute_all(runs):
        return status
    records: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        record = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
        records.setdefault(run.experiment, []).append(record)
    trained = files[CKPT]
    experiment = (run_config(trained) or {}).get("experiment") if trained else None
    text = f"{to_markdown(table(records, experiment))}\n" + "".join(f"- {note}\n" for note in notes(records))
    write_text(TABLE, text)
    print(f"\n{text}\n{TABLE}; every number: {', '.join(str(run.folder) for run in runs)}")
    return 0


def table(records: Mapping[str, Sequence[Mapping[str, Any]]], experiment: str | None = None) -> pd.DataFrame:
    """Return the comparison as texts, a row for each score of each model.

    Args:
        records: "published" and, where there is one, "own" -> results.json of each corpus.
        experiment: Experiment of the student trained here, whose values the paper may have.
    """
    metrics = {
        name: {key: value for record in each for key, value in record["metrics"].items()}
        for name, each in records.items()
    }
    published = metrics["published"]
    models = [
        ("FetalCLIP, the teacher", published, "teacher", "teacher"),
        ("MobileFetalCLIP, the released student", published, "student", "srkd"),
    ]
    if "own" in metrics:
        title = "student trained here" + (f" ({experiment})" if experiment else "")
        models.append((title, metrics["own"], "student", experiment or ""))
    rows = []
    for title, found, model, line in models:
        released = RELEASED.get(line, {}) if found is published else {}
        rows += [
            (title, *_cells(score, PAPER.get(line, {}), released, found, model)) for score in all_columns()
        ]
    for baseline in (CONSTANT, PIXEL_SIZE):
        for score, (_, key, _) in all_columns().items():
            benchmark = score.partition("/")[0]
            if final_name(baseline, benchmark, key) in published:
                title = model_titles(_of(benchmark, published))[baseline]
                rows.append((f"no model: {title}", *_cells(score, {}, {}, published, baseline)))
    return pd.DataFrame(rows, columns=["model", "score", "paper", "released code", "here", "95 % interval"])


def _of(score: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name.startswith(f"{CONSTANT}/{score}/")}


def _cells(
    score: str,
    paper: Mapping[str, float],
    released: Mapping[str, float],
    found: Mapping[str, Any],
    model: str,
) -> tuple[str, ...]:
    title, key, digits = all_columns()[score]
    benchmark = score.partition("/")[0]
    values = [found.get(final_name(model, benchmark, name)) for name in (key, *interval_names(key))]
    *texts, low, high = (formatted(one, digits) for one in (paper.get(score), released.get(score), *values))
    return title, *texts, "-" if values[1] is None else f"{low} to {high}"


def notes(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the notes below the table: images, prompts and what the columns are."""
    details = {
        key: value for record in records["published"] for key, value in record["details"]["student"].items()
    }
    scored = {name: details[name] for name in BENCHMARKS}
    counted = ", ".join(
        f"{name} {int(record['metrics'][final_name('student', name, 'n_scored')])}"
        for record in records["published"]
        for name in BENCHMARKS
        if name in record["details"]["student"]
    )
    cautions = dict.fromkeys(
        caution for each in records.values() for record in each for caution in record["cautions"]
    )
    return [
        f"here: images of the split {', '.join(sorted({each['split'] for each in scored.values()}))} ({counted}), "
        f"prompts {', '.join(sorted({each['protocol'] for each in scored.values()}))}.",
        "paper: arXiv 2603.05421; the student's checkpoint was selected on the images that it reports.",
        "released code: what FetalCLIP's repository holds, 679 valid heads of 814 and the results files of "
        "zero_shot_planes_db/, whose sub-plane F1 of 0.693 is below the paper's 0.702; 8-class F1 follows from its two "
        "F1. The student's repository holds no results.",
        "A student that was trained on training patients of HC18 or FETAL_PLANES_DB has seen some of these images.",
        *cautions,
    ]
