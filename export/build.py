"""Export a trained student: write every variant, measure parity, and describe the folder that ships."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from datamodules import FetalDataModule
from datamodules.evaluation.protocol import Protocol
from export.graphs.contract import METADATA_LICENCE, TEXT_EMBEDDING_NAME, contract_of, metadata_of, ties_of
from export.graphs.heads import AgeHead, ClassHead, build_heads
from export.graphs.onnx_graph import OnnxRunner
from export.graphs.pixel_graph import PixelEncoder
from export.graphs.text_artifact import text_reference, write_text_encoder
from export.int8.openvino_runner import BFLOAT16, enter_bfloat16
from export.int8.speed import judge_int8_speed
from export.int8.variants import INT8_VARIANTS, NO_OPENVINO, require_kin, runs_here, write_int8_variants
from export.options import Options
from export.package.golden import write_golden
from export.package.manifest import MANIFEST, PACKAGES, Export, artifact_entry, read_export, write_manifest
from export.package.model_card import LICENCES, MODEL_CARD, weight_origin, write_licences, write_model_card
from export.parity.frames import calibration_pixels, corpus_spacings, evaluation_frames
from export.parity.ledger import (
    DROPPED,
    FAILED,
    NOT_RUN,
    OPTIONAL_GATES,
    Gates,
    Row,
    coreml_rows,
    failures,
    ledger,
    print_ledger,
    read_gates,
)
from export.parity.measure import measure, require_fused, text_row
from export.variants import (
    Variant,
    Workbench,
    drop_artifact,
    torch_runner,
    write_coreml_variants,
    write_heads,
    write_onnx_variants,
)
from metrics import AGES_DAYS
from models import DualEncoder, QuantisedStudent, fused_copy
from models.files import package_versions, write_json
from models.zero_shot import AgeTable

VERIFY = Path(__file__).parent / "parity" / "verify_coreml.py"
NOISE_FRAMES = 4  # that calibrate int8 for timing


def export_student(
    student: DualEncoder,
    data: FetalDataModule,
    protocol: Protocol,
    target: Path,
    options: Options,
    source: dict[str, Any],
    trained_int8: QuantisedStudent | None = None,
) -> Export:
    """Write, measure and describe every artifact; the folder appears when all exact variants pass their gates.

    A variant with smaller weights that misses its gate is left out; its row stays in the ledger.

    Args:
        student: The trained model.
        data: The corpus that calibrates int8 and scores the variants.
        protocol: Prompts of the heads.
        target: Folder to write; an older export there is replaced.
        options: What to export.
        source: ``weights`` ("trained" or "random"), ``checkpoint``, ``checkpoint_sha256``, ``data`` (data preset that
            scores) and ``training`` (see `experiments.runs.run_record.training_facts`; empty if not recorded).
        trained_int8: The model of `Options.int8_from`.

    Returns:
        The finished export, read back.

    Raises:
        ValueError: An exact variant missed its gate; the message names the rows, and all files are kept in a folder
            beside the target. Or the target is not an older export.
    """
    target = target.resolve()
    require_replaceable(target)
    gates = read_gates(options.gates)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    partial.chmod(0o755)
    try:
        source = {**source, "recipe": student.recipe(), "split": options.split}
        rows = _fill(partial, student.eval(), data, protocol, options, source, gates, trained_int8)
        print_ledger(rows, f"parity of {target}")
        for row in rows:
            if row.status == DROPPED:
                _say(f"left out {row.variant}: {row.note}")
        failed, kept = failures(rows), failed_folder(target)
        if failed:
            (partial / MANIFEST).unlink()  # so that no reader accepts it
            _replace(partial, kept)
            raise ValueError(
                f"export: {failed}; the files and parity.json are kept in {kept} for inspection, not for shipping; "
                "leave a variant out with --skip, or train longer"
            )
        read_export(partial, student.preprocessing)
        _replace(partial, target)
        shutil.rmtree(kept, ignore_errors=True)  # of an earlier attempt
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return read_export(target)


def failed_folder(target: Path) -> Path:
    """Return the folder that keeps the files of an export that missed a gate."""
    return target.with_name(f"{target.name}-failed")


def _fill(
    folder: Path,
    student: DualEncoder,
    data: FetalDataModule,
    protocol: Protocol,
    options: Options,
    source: dict[str, Any],
    gates: Gates,
    trained_int8: QuantisedStudent | None,
) -> list[Row]:
    if trained_int8 is not None:
        require_kin(student, trained_int8.eval())
    trained = source["weights"] == "trained"
    frames = evaluation_frames(data, student.preprocessing, options.split, options.frames)
    shipped = set(options.printed_spacings)
    if not options.only_spacings:
        shipped.update(corpus_spacings(data, student.preprocessing))
    # HC18's frames are judged with their own spacings, shipped or not; task scores of random weights are not worth
    # the embedding of their prompts.
    _say("embedding prompts")
    heads, ages = build_heads(student, protocol, shipped | (set(frames.spacings()) if trained else set()))
    shipped_ages = ages.only(shipped) if ages is not None and shipped else None
    metadata = metadata_of(student) | {METADATA_LICENCE: " ".join(weight_origin(source))}
    bench = Workbench(folder, PixelEncoder(fused_copy(student)).eval(), heads, metadata)
    reference = torch_runner(PixelEncoder(student).eval())

    fused = Variant("torch-fused", "PyTorch, reparameterised", "float32", torch_runner(bench.encoder))
    require_fused(reference, fused, frames, heads, gates)

    _write_models(bench, data, options, trained_int8)
    _say("measuring parity")
    rows = measure(reference, [fused, *bench.variants], frames, heads, ages, gates, trained=trained)
    rows += [*bench.not_run, *coreml_rows(bench.artifacts, gates, trained=trained)]
    _drop_missed(bench, rows)
    _say("timing int8 against float32")
    judge_int8_speed(bench, rows, keep_slow=options.keep_slow_int8)
    if options.text_encoder:
        rows.append(_text(bench, student, gates))
    write_heads(bench, heads, shipped_ages)
    golden = write_golden(folder, student.preprocessing, reference, heads, shipped_ages)
    shutil.copyfile(VERIFY, folder / VERIFY.name)
    _describe(bench, student, protocol, source, rows, golden)
    return rows


def _drop_missed(bench: Workbench, rows: list[Row]) -> None:
    """Remove the variants with smaller weights that missed their gate."""
    for row in rows:
        if row.status == FAILED and row.gate in OPTIONAL_GATES:
            row.status = DROPPED
            if row.variant in INT8_VARIANTS:
                row.note += "; int8 can be trained (EXP=srkd-qat, docs/deploy.md)"
            drop_artifact(bench, row.variant)


def _say(step: str) -> None:
    print(f"export: {step}", flush=True)


def _write_models(
    bench: Workbench, data: FetalDataModule, options: Options, trained_int8: QuantisedStudent | None
) -> None:
    """Write all models, with a row for each that cannot run here."""
    _say("writing ONNX")
    write_onnx_variants(bench, options.dynamic_batch)
    if BFLOAT16 not in options.skip:
        enter_bfloat16(bench)
    wanted = [name for name in INT8_VARIANTS if name not in options.skip and "int8" not in options.skip]
    int8 = [name for name in wanted if runs_here(name)]
    if int8 and trained_int8 is not None:
        _say("writing int8 with trained ranges")
        write_int8_variants(bench, int8, None, trained_int8)
    elif int8:
        _say("calibrating int8")
        count = options.calibration_frames
        write_int8_variants(bench, int8, calibration_pixels(data, bench.encoder.model.preprocessing, count))
    if "coreml" not in options.skip:
        _say("converting to Core ML")
        write_coreml_variants(bench, options.skip)
    bench.not_run += [Row(name, "-", status=NOT_RUN, note=NO_OPENVINO) for name in wanted if name not in int8]


def _text(bench: Workbench, student: DualEncoder, gates: Gates) -> Row:
    path, way, files = write_text_encoder(student, bench.folder / "text", bench.metadata, bench.warnings)
    bench.artifacts["onnx-text"] = artifact_entry(
        path, bench.folder, kind="onnx", batch="any", captured_by=way, output=TEXT_EMBEDDING_NAME
    )
    for file in files:
        entry = artifact_entry(file, bench.folder, kind="text")
        bench.artifacts[entry["file"]] = (
            entry  # by file name: tokenizer.json and tokenizer.model share a stem
        )
    return text_row(*text_reference(student), OnnxRunner(path), gates)


def _describe(
    bench: Workbench,
    student: DualEncoder,
    protocol: Protocol,
    source: dict[str, Any],
    rows: list[Row],
    golden: Path,
) -> None:
    """Write parity ledger, licences, model card and, last, the manifest.

    The manifest hashes every file except the ledger, which `export.parity.verify_coreml` finishes on a Mac.
    """
    folder, contract = bench.folder, contract_of(student.preprocessing)
    bench.artifacts["golden"] = artifact_entry(golden.parent, folder, kind="golden")
    created = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"created": created, "versions": package_versions(*PACKAGES), "protocol": protocol.digest}
    facts["warnings"] = bench.warnings
    write_json(folder / "parity.json", ledger(rows, facts))
    write_licences(folder / LICENCES, source, protocol.digest)
    write_model_card(
        folder / MODEL_CARD,
        source=source,
        contract=contract,
        artifacts=bench.artifacts,
        rows=rows,
        protocol=protocol.digest,
    )
    for name in (MODEL_CARD, LICENCES, VERIFY.name):
        bench.artifacts[name] = artifact_entry(folder / name, folder, kind="document")
    own = {
        "source": source,
        "contract": contract,
        "embed_dim": student.embed_dim,
        "artifacts": bench.artifacts,
    }
    write_manifest(folder, {**facts, **ties_of(bench.metadata), **own, **bench.facts})


def write_timing_export(student: DualEncoder, folder: Path, protocol: Protocol, *, int8: bool) -> Export:
    """Write an export for timing only: the ONNX encoder and heads of the right shapes, without parity.

    The heads' vectors are random and int8 files are calibrated on noise; neither changes the time of a call.

    Args:
        student: The model.
        folder: Folder to fill.
        protocol: Gives the heads' shapes.
        int8: Write the int8 files too.
    """
    generator = torch.Generator().manual_seed(0)
    dim, preprocessing = student.embed_dim, student.preprocessing
    heads = {
        name: ClassHead(name, prompts, normalize(torch.randn(len(prompts), dim, generator=generator), dim=-1))
        for name, prompts in (("planes", protocol.planes), ("subplanes", protocol.subplanes))
    }
    ages = AgeTable(("0.30",), normalize(torch.randn(1, len(AGES_DAYS), dim, generator=generator), dim=-1))
    bench = Workbench(folder, PixelEncoder(fused_copy(student)).eval(), {}, metadata_of(student))
    write_onnx_variants(bench, dynamic_batch=False)
    if int8:
        shape = (NOISE_FRAMES, 3, preprocessing.image_size, preprocessing.image_size)
        noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
        write_int8_variants(bench, [name for name in INT8_VARIANTS if runs_here(name)], noise)
    write_heads(bench, heads, AgeHead(protocol.biometry, ages))
    source = {"weights": "for timing only", "recipe": student.recipe()}
    own = {"source": source, "contract": contract_of(preprocessing), "artifacts": bench.artifacts}
    write_manifest(folder, {**own, **ties_of(bench.metadata), "embed_dim": dim})
    return read_export(folder)


def require_replaceable(target: Path) -> None:
    """Check that an export may replace the target, and a failed export its own folder.

    Raises:
        ValueError: The target is a file, or a folder that holds something other than an export.
    """
    failed = failed_folder(target)
    if failed.exists() and not (failed / "parity.json").is_file():
        raise ValueError(f"{failed}: needed for an export that misses a gate; move this folder away")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        ours = "contract_sha256" in (target / MANIFEST).read_text(encoding="utf-8")
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise ValueError(f"--out={target}: exists and is not an export; name a new or an empty folder")


def _replace(partial: Path, target: Path) -> None:
    """Move the finished folder to the place of an older one."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
