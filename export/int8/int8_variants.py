"""Quantised forms of the image encoder: int8 for ONNX Runtime and OpenVINO, and bfloat16 in OpenVINO.

An int8 file is left out where it is slower than float32 in the same runtime, by processor time of one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from export.graphs.contract import EMBEDDING_NAME
from export.graphs.text_artifact import text_reference
from export.int8.onnx_int8 import quantise, write_trained_int8
from export.latency.backends import ARTIFACTS, BFLOAT16, INT8, OPENVINO_PRECISIONS, available
from export.latency.interleave import Timing, speed_ratio, time_interleaved
from export.latency.machine import NO_INT8_PRODUCT, lacks_int8_product
from export.parity.ledger import DROPPED, FAILED, NOT_RUN, Row
from export.runners import NO_OPENVINO, openvino_runner
from export.variants import ENCODER_FILE, ExportContext, Variant
from models import DualEncoder, QuantisedStudent
from models.messages import error_line
from models.student.onnx_files import Floats, onnx_runner

INT8_VARIANTS = {"onnx-int8": False, "openvino-int8": True}  # name -> grouped convolutions too
SAME_TEXT = 1e-5
ROUNDS, REPEATS = 7, 5
KEEP = "--keep_slow_int8"


def check_compatible(student: DualEncoder, trained: QuantisedStudent) -> None:
    """Check that a student trained with int8 in the loop can use the heads of a float student.

    Raises:
        ValueError: It expects other inputs, or its text tower is another one.
    """
    if trained.preprocessing != student.preprocessing:
        raise ValueError("--int8_from: it was made for another preprocessing; train it from this CKPT")
    difference = np.abs(text_reference(student)[1] - text_reference(trained)[1]).max()
    if not difference <= SAME_TEXT:
        raise ValueError("--int8_from: its text tower is another one; train it from this CKPT")


def write_int8_variants(
    context: ExportContext, names: Sequence[str], source: Floats | QuantisedStudent
) -> None:
    """Write int8 copies of the float32 encoder, those of `INT8_VARIANTS` that are named and run here.

    The source is calibration frames, pixel values [N, 3, S, S], or the student trained with int8 in the loop, whose
    weights and ranges are taken.
    """
    for name in names:
        openvino, grouped = name == "openvino-int8", INT8_VARIANTS[name]
        if openvino and find_spec("openvino") is None:
            context.leave_out(name, NO_OPENVINO)
            continue
        path = context.folder / f"image_encoder_int8{'_openvino' if openvino else ''}.onnx"
        how = f"{'OpenVINO' if openvino else 'ONNX Runtime'}, CPU"
        facts: dict[str, Any] = {"output": EMBEDDING_NAME}
        if isinstance(source, QuantisedStudent):
            write_trained_int8(source, path, grouped_convolutions=grouped, metadata=context.tied(name))
            facts |= {"batch": 1, "ranges": "trained"}
            how = f"{how}; trained with int8 in the loop"
        else:
            plain = context.folder / ENCODER_FILE
            quantise(plain, path, source, grouped_convolutions=grouped, metadata=context.tied(name))
            facts["batch"] = context.artifacts["onnx-fp32"]["batch"]
            facts["ranges"] = f"calibrated on {len(source)} frames"
        run = openvino_runner(path, context.side) if openvino else onnx_runner(path)
        context.add(name, path, "onnx", **facts)
        context.variants.append(Variant(name, how, "compressed", run))


def enter_bfloat16(context: ExportContext) -> None:
    """Add the float32 ONNX file computed in bfloat16 to the ledger, judged by the task; no separate file is written.

    Where OpenVINO is absent or the processor has no bfloat16, its row is NOT RUN with the reason.
    """
    how, gate = f"OpenVINO, CPU, bfloat16, on {ENCODER_FILE}", "compressed"
    state = available()[BFLOAT16]
    if state != "yes":
        context.not_run.append(Row(BFLOAT16, how, gate, NOT_RUN, state))
        return
    run = openvino_runner(context.folder / ENCODER_FILE, context.side, OPENVINO_PRECISIONS[BFLOAT16])
    context.variants.append(Variant(BFLOAT16, how, gate, run))


def judge_int8_speed(context: ExportContext, rows: Sequence[Row], *, keep_slow: bool) -> list[Row]:
    """Time the int8 files against the float32 one; rows that are not ``ok`` or ``NOT RUN`` are returned as they are.

    Returns:
        The rows, those of int8 files with their speed; ``DROPPED`` where a file is slower or cannot be timed, unless
        `keep_slow`.
    """
    judged = [row.variant for row in rows if row.variant in INT8 and row.status not in (FAILED, DROPPED)]
    timings = _timings(context, [name for name in judged if name in context.artifacts])
    return [
        row if row.variant not in timings
        else _with_speed(row, timings[row.variant], timings[f"{row.variant} reference"], keep_slow)
        for row in rows
    ]  # fmt: skip


def _with_speed(row: Row, own: Timing, reference: Timing, keep_slow: bool) -> Row:
    broken, high, figures = own.error or reference.error, 0.0, row.figures
    if broken:
        notes = [row.note, f"could not be timed against float32 ({broken})"]
    else:
        speed, low, high = speed_ratio(reference, own, cpu=True)
        figures = {**figures, "of_float32": speed, "of_float32_low": low, "of_float32_high": high}
        where = f"float32 in {INT8[row.variant]} here (one thread; quartiles {low:.2f} to {high:.2f})"
        notes = [row.note, f"{speed:.2f} times as fast as {where}"]
        if low <= 1 <= high:
            notes.append("kept, unproven: the quartiles lie on both sides of 1")
    if high >= 1:
        return replace(row, figures=figures, note="; ".join(filter(None, notes)))
    if not broken and lacks_int8_product():
        notes.append(NO_INT8_PRODUCT)
    kept, dropped = f"kept because of {KEEP}", f"left out for that ({KEEP} keeps it for its size)"
    notes.append(kept if keep_slow else dropped)
    status = row.status if keep_slow else DROPPED
    return replace(row, status=status, figures=figures, note="; ".join(filter(None, notes)))


def _timings(context: ExportContext, names: Sequence[str]) -> dict[str, Timing]:
    specs: dict[str, dict[str, Any]] = {}
    for name in names:
        common = {"backend": INT8[name], "threads": 1, "batch": 1, "side": context.side}
        reference = context.artifacts[ARTIFACTS.get(INT8[name], "onnx-fp32")]["file"]
        specs[f"{name} reference"] = {**common, "path": str(context.folder / reference)}
        specs[name] = {**common, "path": str(context.folder / context.artifacts[name]["file"])}
    try:
        return time_interleaved(specs, ROUNDS, REPEATS)
    except (RuntimeError, OSError) as error:  # a runtime's process ended in the middle
        return {name: Timing(spec, error=error_line(error)) for name, spec in specs.items()}
