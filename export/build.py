"""Export a trained student to a folder for an app: write every variant, measure it, and describe what is shipped."""

from __future__ import annotations

import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datamodules import FetalDataModule
from datamodules.protocol import Protocol
from export.contract import METADATA_LICENCE, TEXT_EMBEDDING_NAME, contract_of, metadata_of, ties_of
from export.coreml_rows import check_packages, device_rows
from export.frames import calibration_pixels, corpus_spacings, evaluation_frames
from export.golden import write_golden
from export.heads import build_heads
from export.int8_speed import judge_int8_speed
from export.int8_variants import INT8_VARIANTS, NO_OPENVINO, require_kin, runs_here, write_int8_variants
from export.manifest import MANIFEST, Export, artifact_entry, read_export, write_manifest
from export.measure import measure, require_fused, text_row
from export.model_card import LICENCES, MODEL_CARD, weight_origin, write_licences, write_model_card
from export.onnx_graph import OnnxRunner
from export.openvino_runner import BFLOAT16, enter_bfloat16
from export.options import Options
from export.parity import (
    COMPRESSED,
    DROPPED,
    FAILED,
    NOT_RUN,
    Row,
    failures,
    ledger,
    print_ledger,
    read_gates,
)
from export.pixel_graph import PixelEncoder
from export.provenance import package_versions
from export.text_artifact import text_reference, write_text_encoder
from export.variants import (
    Variant,
    Workbench,
    drop_artifact,
    torch_runner,
    write_coreml_variants,
    write_heads,
    write_onnx_variants,
)
from models import DualEncoder, QuantisedStudent, fused_copy

VERIFY = Path(__file__).with_name("verify_coreml.py")


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
        data: The corpus that calibrates and judges.
        protocol: Prompts of the heads.
        target: Folder to write; an older export there is replaced.
        options: What to export.
        source: ``weights`` ("trained" or "random"), ``checkpoint``, ``checkpoint_sha256``, ``data`` (what judges) and
            ``training`` (see `experiments.origin.training_facts`; empty where nothing is recorded).
        trained_int8: What `Options.int8_from` names.

    Returns:
        The finished export, read back.

    Raises:
        ValueError: An exact variant missed its gate; the message names the rows, and all files lie in a folder
            beside the target. Or the target is something else than an older export.
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
            (partial / MANIFEST).unlink()  # so that no reader takes it for an export
            _replace(partial, kept)
            raise ValueError(
                f"export: {failed}; its files and parity.json are kept in {kept} for a look, not to be shipped; leave "
                "a variant out with --skip, or train it better"
            )
        read_export(partial, student.preprocessing)
        _replace(partial, target)
        shutil.rmtree(kept, ignore_errors=True)  # of an earlier attempt
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return read_export(target)


def failed_folder(target: Path) -> Path:
    """Return where the files of an export lie that missed a gate."""
    return target.with_name(f"{target.name}-failed")


def _fill(
    folder: Path,
    student: DualEncoder,
    data: FetalDataModule,
    protocol: Protocol,
    options: Options,
    source: dict[str, Any],
    gates: Any,
    trained_int8: QuantisedStudent | None,
) -> list[Row]:
    if trained_int8 is not None:
        require_kin(student, trained_int8.eval())
    trained = source["weights"] == "trained"
    frames = evaluation_frames(data, student.preprocessing, options.split, options.frames)
    few = evaluation_frames(data, student.preprocessing, options.split, options.coreml_frames)
    shipped = set(options.printed_spacings)
    if not options.only_spacings:
        shipped.update(corpus_spacings(data, student.preprocessing))
    # What ships does not decide what is judged, but the tasks of random weights are not worth their prompts.
    judged = {*frames.spacings(), *few.spacings()} if trained else set()
    _say("embedding prompts")
    heads, ages = build_heads(student, protocol, shipped | judged)
    shipped_ages = ages.only(shipped) if ages is not None and shipped else None
    terms = {METADATA_LICENCE: " ".join(weight_origin(source))}
    metadata = metadata_of(student) | terms
    bench = Workbench(folder, PixelEncoder(fused_copy(student)).eval(), heads, metadata)
    reference = torch_runner(PixelEncoder(student).eval())

    fused = Variant("torch-fused", "PyTorch, reparameterised", "float32", torch_runner(bench.encoder))
    require_fused(reference, fused, frames, heads, gates)

    _write_models(bench, data, options, trained_int8)
    _say("measuring parity")
    quick = [fused, *(variant for variant in bench.variants if not variant.emulated)]
    rows = measure(reference, quick, frames, heads, ages, gates, trained=trained)
    slow = [variant for variant in bench.variants if variant.emulated]
    if slow:
        rows += measure(reference, slow, few, heads, ages, gates, trained=trained)[1:]
    rows += bench.not_run
    check_packages(bench.artifacts, rows)
    _drop_missed(bench, rows)
    rows += device_rows(bench.artifacts, gates, trained=trained)
    _say("timing int8 against float32")
    judge_int8_speed(bench, rows, keep_slow=options.keep_slow_int8)
    if options.text_encoder:
        rows.append(_text(bench, student, gates))
    write_heads(bench, heads, shipped_ages)
    small = {
        variant.name: variant.run
        for variant in slow
        if variant.gate == COMPRESSED and variant.name in bench.artifacts
    }
    golden = write_golden(folder, student.preprocessing, reference, heads, shipped_ages, small)
    shutil.copyfile(VERIFY, folder / VERIFY.name)
    _describe(bench, student, protocol, source, rows, golden)
    return rows


def _drop_missed(bench: Workbench, rows: list[Row]) -> None:
    """Leave out the variants with smaller weights that missed their gate: an app does without them."""
    for row in rows:
        if row.status == FAILED and row.gate == COMPRESSED:
            row.status = DROPPED
            if row.variant in INT8_VARIANTS:
                row.note += "; int8 can be trained (EXP=srkd-qat, docs/deploy.md)"
            drop_artifact(bench, row.variant)


def _say(step: str) -> None:
    print(f"export: {step}", flush=True)


def _write_models(
    bench: Workbench, data: FetalDataModule, options: Options, trained_int8: QuantisedStudent | None
) -> None:
    """Write all models; those that cannot run here leave a row that says so."""
    _say("writing ONNX")
    write_onnx_variants(bench, options.dynamic_batch)
    if BFLOAT16 not in options.skip:
        enter_bfloat16(bench)
    wanted = [name for name in INT8_VARIANTS if name not in options.skip and "int8" not in options.skip]
    int8 = [name for name in wanted if runs_here(name)]
    if int8 and trained_int8 is not None:
        _say("writing int8 with the ranges of its training")
        write_int8_variants(bench, int8, None, trained_int8)
    elif int8:
        _say("calibrating int8")
        count = options.calibration_frames
        write_int8_variants(bench, int8, calibration_pixels(data, bench.encoder.model.preprocessing, count))
    if "coreml" not in options.skip:
        _say("converting to Core ML")
        write_coreml_variants(bench, options.skip)
    absent = [name for name in wanted if name not in int8]
    bench.not_run += [Row(name, "-", status=NOT_RUN, note=NO_OPENVINO) for name in absent]


def _text(bench: Workbench, student: DualEncoder, gates: Any) -> Row:
    path, way, files = write_text_encoder(student, bench.folder / "text", bench.metadata, bench.warnings)
    bench.artifacts["onnx-text"] = artifact_entry(
        path, bench.folder, kind="onnx", batch="any", captured_by=way, output=TEXT_EMBEDDING_NAME
    )
    for file in files:
        entry = artifact_entry(file, bench.folder, kind="text")
        bench.artifacts[entry["file"]] = entry  # stems occur twice: tokenizer.json, tokenizer.model
    return text_row(*text_reference(student), OnnxRunner(path), gates)


def _describe(
    bench: Workbench,
    student: DualEncoder,
    protocol: Protocol,
    source: dict[str, Any],
    rows: list[Row],
    golden: Path,
) -> None:
    """Write parity ledger, licences, model card and, last, the manifest, which hashes all but the ledger.

    A Mac finishes the ledger later (`export.verify_coreml`).
    """
    folder, contract = bench.folder, contract_of(student.preprocessing)
    bench.artifacts["golden"] = artifact_entry(golden.parent, folder, kind="golden")
    facts = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": package_versions()}
    content = ledger(rows, {**facts, "protocol": protocol.digest, "warnings": bench.warnings})
    (folder / "parity.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
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
    manifest = {
        **facts,
        **ties_of(bench.metadata),
        "source": source,
        "contract": contract,
        "embed_dim": student.embed_dim,
        "protocol": protocol.digest,
        "artifacts": bench.artifacts,
        "warnings": bench.warnings,
        **bench.facts,
    }
    write_manifest(folder, manifest)


def require_replaceable(target: Path) -> None:
    """Check that a finished folder may take the target's place, and a failed one its own: what is there is deleted.

    Raises:
        ValueError: The target is a file, or a folder with something else in it than an export.
    """
    failed = failed_folder(target)
    if failed.exists() and not (failed / "parity.json").is_file():
        raise ValueError(f"{failed}: an export that misses a gate would be kept there; move it away")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        ours = "contract_sha256" in json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise ValueError(f"--out={target}: it is there and no earlier export; name a new or an empty folder")


def _replace(partial: Path, target: Path) -> None:
    """Put the finished folder in the place of an older one."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
