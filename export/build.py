"""Export a trained student: write every variant, measure parity, and describe the folder that ships."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from datamodules import FetalDataModule
from datamodules.evaluation.protocol import Protocol
from export.graphs.contract import (
    METADATA_LICENCE,
    TEXT_EMBEDDING_NAME,
    contract_of,
    metadata_of,
    recipe_without_path,
    text_input,
    ties_of,
)
from export.graphs.heads import build_heads, describe_heads, grid, ship, write_heads
from export.graphs.litert_file import litert_installed
from export.graphs.onnx_graph import quiet
from export.graphs.pixel_graph import PixelEncoder
from export.graphs.text_artifact import text_reference, write_text_encoder
from export.int8.int8_variants import (
    INT8_VARIANTS,
    check_compatible,
    enter_bfloat16,
    judge_int8_speed,
    write_int8_variants,
)
from export.latency.backends import BFLOAT16
from export.options import Options
from export.package.golden import write_golden
from export.package.manifest import PACKAGES, Export, read_export, write_manifest
from export.package.model_card import LICENCES, MODEL_CARD, weight_origin, write_licences, write_model_card
from export.package.readme import LICENCE_TEXT, PROGRAMS, README, licence_text, write_readme
from export.parity.frames import calibration_pixels, corpus_spacings, evaluation_frames
from export.parity.ledger import (
    DROPPED,
    FAILED,
    OPTIONAL_GATES,
    GateFailedError,
    Gates,
    Row,
    coreml_rows,
    failures,
    few_frames,
    markdown_ledger,
    read_gates,
)
from export.parity.measure import measure, text_row
from export.runners import NO_LITERT
from export.variants import (
    LITERT,
    ExportContext,
    Variant,
    coreml_packages,
    torch_runner,
    write_coreml_variants,
    write_litert_variants,
    write_onnx_variants,
    write_resize_variant,
)
from models import DualEncoder, QuantisedStudent, fused_copy
from models.files import atomic_folder, package_versions, replace_folder, write_json
from models.student.base import ANSWERS
from models.student.manifest import MANIFEST, without_prompts
from models.student.onnx_files import HEADS, onnx_runner

LEDGER = "parity.json"
FIRST_FRAMES = 8  # on which the fused model is compared before anything is converted
NOISE_FRAMES = 4  # that calibrate int8 for timing


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        student: The trained model.
        data: The corpus that calibrates int8 and scores the variants.
        protocol: Prompts of the heads.
        source: ``weights`` ("trained" or "random"), ``checkpoint``, ``checkpoint_sha256``, ``data`` (data preset that
            scores) and ``training`` (see `experiments.runs.run_record.training_facts`; empty if not recorded).
        trained_int8: The model of `Options.int8_from`.
        calibration: The checkpoint's `models.student.base.Calibration`, for these prompts.
    """

    student: DualEncoder
    data: FetalDataModule
    protocol: Protocol
    source: Mapping[str, Any]
    trained_int8: QuantisedStudent | None = None
    calibration: Mapping[str, Any] | None = None


def export_student(subject: Subject, target: Path, options: Options) -> Export:
    """Write, measure and describe every artifact; the folder appears when all exact variants pass their gates.

    A variant with smaller weights that misses its gate is left out; its row stays in the ledger.

    Args:
        subject: What to export.
        target: Folder to write; an older export there is replaced.
        options: Which variants, and how they are judged.

    Returns:
        The finished export, read back.

    Raises:
        GateFailedError: An exact variant missed its gate; the message names the rows, and all files are kept in a
            folder beside the target.
        ValueError: The target is not an older export, or an input cannot be used.
    """
    target, student = target.resolve(), subject.student.eval()
    require_replaceable(target)
    gates = read_gates(options.gates)
    if subject.trained_int8 is not None:
        check_compatible(student, subject.trained_int8.eval())
    kept = failed_folder(target)
    source = {
        **subject.source,
        "recipe": recipe_without_path(student),
        "split": options.split,
        "frames": options.frames,
    }
    with atomic_folder(target) as partial:
        rows = _fill(partial, replace(subject, source=source), options, gates)
        print(f"parity of {target}\n\n{markdown_ledger(rows)}\n")
        for row in rows:
            if row.status == DROPPED:
                print(f"export: left out {row.variant}: {row.note}")
        if failed := failures(rows):
            (partial / MANIFEST).unlink()  # so that no reader accepts it
            replace_folder(partial, kept)
            raise GateFailedError(
                f"export: {failed}; the files and {LEDGER} are kept in {kept} for inspection, not for shipping; "
                "leave a variant out with --skip, or train longer"
            )
        for file in partial.rglob("*"):
            # Some writers create files that only their owner may read.
            file.chmod(0o755 if file.is_dir() else 0o644)
        export = read_export(partial)
    shutil.rmtree(kept, ignore_errors=True)  # of an earlier attempt
    return replace(export, folder=target)


def failed_folder(target: Path) -> Path:
    """Return the folder that keeps the files of an export that missed a gate."""
    return target.with_name(f"{target.name}-failed")


def require_replaceable(target: Path) -> None:
    """Check that an export may replace the target, and a failed export its own folder.

    Raises:
        ValueError: The target is a file, or a folder that holds something other than an export.
    """
    failed = failed_folder(target)
    if failed.exists() and not (failed / LEDGER).is_file():
        raise ValueError(f"{failed}: needed for an export that misses a gate; move this folder away")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        ours = "contract_sha256" in (target / MANIFEST).read_text(encoding="utf-8")
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise ValueError(f"--out={target}: exists and is not an export; name a new or an empty folder")


def _fill(folder: Path, subject: Subject, options: Options, gates: Gates) -> list[Row]:
    """Write the export; every stage after the files returns rows, and the last one decides which files stay."""
    student, data, trained = subject.student, subject.data, subject.source["weights"] == "trained"
    frames = evaluation_frames(data, student.preprocessing, options.split, options.frames)
    shipped = set(options.printed_spacings)
    if not options.only_spacings:
        shipped |= grid(corpus_spacings(data, student.preprocessing))
    # HC18's frames are judged with their own spacings, shipped or not; not for random weights, whose scores are noise.
    _say("embedding prompts")
    scored = {spacing for printed in frames.spacings().values() for spacing in printed} if trained else set()
    cache = None if options.age_cache is None else Path(options.age_cache)
    heads, ages = build_heads(student, subject.protocol, shipped | scored, cache)
    for name, head in heads.items():
        if missing := sorted(set(frames.labels(name)) - set(head.labels)) if name in frames.rows else []:
            raise ValueError(
                f"benchmark {name}: no prompts for {', '.join(missing)}, which its images are labelled with; "
                "add prompts, or exclude these labels"
            )
    metadata = metadata_of(student) | {METADATA_LICENCE: " ".join(weight_origin(subject.source))}
    context = ExportContext(folder, PixelEncoder(fused_copy(student)).eval(), heads, metadata)
    reference = torch_runner(PixelEncoder(student).eval())

    fused = Variant("torch-fused", "PyTorch, reparameterised", "float32", torch_runner(context.encoder))
    first = replace(frames, records=frames.records[:FIRST_FRAMES], rows={})
    if different := failures(measure(reference, [fused], first, heads, None, gates, trained=False)):
        raise GateFailedError(
            f"export: {different} on the first {len(first.records)} frames; the fused student does not compute what "
            "the trained one computes, so nothing was converted"
        )
    small = None
    if ages is not None:
        small = ship(ages, subject.protocol.biometry, *frames.embedded_heads(reference if trained else None))
    _write_models(context, subject, options)
    _say("measuring parity")
    variants = [fused, *context.variants]
    shipped_table = None if small is None else small.table()
    rows = measure(reference, variants, frames, heads, ages, gates, trained=trained, shipped=shipped_table)
    rows += [*context.not_run, *coreml_rows(context.artifacts, gates, trained=trained)]
    fewest = min(map(len, frames.rows.values()))
    rows = [_dropped_if_missed(row, fewest, gates) for row in rows]
    _say("timing int8 against float32")
    rows = judge_int8_speed(context, rows, keep_slow=options.keep_slow_int8)
    for row in rows:
        if row.status == DROPPED:
            context.drop(row.variant)
    if options.text_encoder:
        run = onnx_runner(folder / context.artifacts["onnx-text"]["file"])
        rows.append(text_row(*text_reference(student), run, gates))
    shipped_ages = small.only(shipped) if small is not None and shipped else None
    write_heads(folder / HEADS, heads, shipped_ages, ties_of(metadata))
    kept = [one for one in context.variants if one.name in context.artifacts and one.head is None]
    write_golden(folder / "golden", student.preprocessing, reference, kept, heads, shipped_ages)
    _describe(context, subject, rows, describe_heads(heads, shipped_ages), gates)
    return rows


def _dropped_if_missed(row: Row, fewest: int, gates: Gates) -> Row:
    """Return a failed row with remedies in its note; that of a variant with smaller weights as ``DROPPED``."""
    if row.status != FAILED:
        return row
    row = replace(row, note=row.note + few_frames(row, fewest, gates))
    if row.gate not in OPTIONAL_GATES:
        return row
    trainable = "; int8 can be trained (EXP=srkd-qat, docs/deploy.md)" if row.variant in INT8_VARIANTS else ""
    return replace(row, status=DROPPED, note=row.note + trainable)


def _say(step: str) -> None:
    print(f"export: {step}", flush=True)


@contextmanager
def _step(context: ExportContext, title: str) -> Iterator[None]:
    """Print the title of a conversion and collect the converters' warnings."""
    _say(title)
    with quiet(context.warnings):
        yield


def _write_models(context: ExportContext, subject: Subject, options: Options) -> None:
    """Write all models, with a row for each that cannot run here."""

    def wanted(names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in options.left_out]

    with _step(context, "writing ONNX"):
        write_onnx_variants(context, options.dynamic_batch)
        if options.with_resize:
            write_resize_variant(context)
        if wanted([BFLOAT16]):
            enter_bfloat16(context)
    if int8 := wanted(INT8_VARIANTS):
        with _step(context, "writing int8"):
            source = subject.trained_int8 or calibration_pixels(
                subject.data, subject.student.preprocessing, options.calibration_frames
            )
            write_int8_variants(context, int8, source)
    litert = wanted(LITERT)
    if litert and litert_installed():
        with _step(context, "converting to LiteRT"):
            write_litert_variants(context, litert)
    else:
        for name in litert:
            context.leave_out(name, NO_LITERT)
    if coreml := wanted(coreml_packages()):
        with _step(context, "converting to Core ML"):
            write_coreml_variants(context, coreml)
    if options.text_encoder:
        with _step(context, "writing the text tower"):
            metadata = context.tied("onnx-text", text_input(subject.student.preprocessing))
            path, files = write_text_encoder(subject.student, context.folder / "text", metadata)
            context.add("onnx-text", path, "onnx", batch="any", output=TEXT_EMBEDDING_NAME)
            for file in files:
                # By its path: tokenizer.json and tokenizer.model share a stem.
                context.add(file.relative_to(context.folder).as_posix(), file, "text")


def _describe(
    context: ExportContext,
    subject: Subject,
    rows: list[Row],
    heads: Mapping[str, Mapping[str, Any]],
    gates: Gates,
) -> None:
    """Write parity ledger, documents and, last, the manifest, which hashes every other file."""
    folder = context.folder
    own_gates = {} if gates == read_gates() else gates
    facts = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": package_versions(*PACKAGES),
        "protocol": subject.protocol.digest,
        "warnings": context.warnings,
    }
    answers: dict[str, Any] = {}
    if subject.calibration is not None:
        answers[ANSWERS] = {**subject.calibration, "prompts": {}}  # heads.safetensors holds them
    content = {**facts, **answers, **_content(context, subject.student, subject.source, heads)}
    context.add("heads", folder / HEADS, "heads")
    context.add("golden", folder / "golden", "golden")
    write_json(folder / LEDGER, {**facts, "custom_gates": own_gates, "rows": [row.to_dict() for row in rows]})
    context.add("parity", folder / LEDGER, "ledger")
    write_licences(folder / LICENCES, content)
    (folder / LICENCE_TEXT).write_text(licence_text(), encoding="utf-8")
    for path in PROGRAMS:
        shutil.copyfile(path, folder / path.name)
    write_readme(folder / README, content, rows)
    write_model_card(folder / MODEL_CARD, content, rows, own_gates)
    for name in (README, MODEL_CARD, LICENCES, LICENCE_TEXT, *(path.name for path in PROGRAMS)):
        context.add(name, folder / name, "document")
    write_manifest(folder, content)


def _content(
    context: ExportContext,
    student: DualEncoder,
    source: Mapping[str, Any],
    heads: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the keys that every manifest has; `ExportContext.add` still adds artifacts."""
    return {
        **ties_of(context.metadata),
        "source": source,
        "contract": contract_of(student.preprocessing),
        "embed_dim": student.embed_dim,
        "heads": {name: without_prompts(head) for name, head in heads.items()},
        "artifacts": context.artifacts,
    }


def write_timing_export(student: DualEncoder, folder: Path, protocol: Protocol, *, int8: bool) -> Export:
    """Write an export for timing only: the ONNX encoder and class heads, without parity.

    int8 files are calibrated on noise, which does not change the time of a call.
    """
    context = ExportContext(folder, PixelEncoder(fused_copy(student)).eval(), {}, metadata_of(student))
    with quiet(context.warnings):
        write_onnx_variants(context, dynamic_batch=False)
        if int8:
            shape = (NOISE_FRAMES, 3, context.side, context.side)
            noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
            write_int8_variants(context, [*INT8_VARIANTS], noise)
    heads = build_heads(student, protocol, set())[0]
    write_heads(folder / HEADS, heads, None, ties_of(context.metadata))
    context.add("heads", folder / HEADS, "heads")
    source = {"weights": "for timing only", "recipe": student.recipe()}
    write_manifest(folder, _content(context, student, source, describe_heads(heads, None)))
    return read_export(folder)
