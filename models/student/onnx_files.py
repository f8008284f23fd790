"""ONNX files as functions on arrays, and zero-shot heads, without PyTorch.

ONNX Runtime is imported where it is used: a latency worker measures cold start and peak memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open

from models.messages import error_line, one_line, problems

Floats = NDArray[np.float32]
Run = Callable[[NDArray[Any]], Floats]
"""From a batch of pixel values [N, 3, S, S], or of tokens [N, L], to outputs [N, ...]."""

CPU = "CPUExecutionProvider"
HEADS, AGES, BASIS = "heads.safetensors", "ages", "ages_basis"


def onnx_runner(path: Path | str, threads: int = 0, provider: str = CPU) -> Run:
    """Load an ONNX file in ONNX Runtime.

    Args:
        path: The file. One with a static batch of one gets the samples of a batch one by one.
        threads: Threads of one operation; 0 leaves the choice to the runtime.
        provider: Execution provider.

    Raises:
        ValueError: The file is not a model, or ONNX Runtime fell back to another provider.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # ONNX Runtime raises classes of its own
        raise ValueError(f"{path}: ONNX Runtime cannot load it: {one_line(error, 300)}") from error
    if provider not in session.get_providers():
        raise ValueError(f"ONNX Runtime fell back from {provider}")
    tensor = session.get_inputs()[0]
    return batched(
        lambda part: session.run(None, {tensor.name: part})[0], 1 if tensor.shape[0] == 1 else None
    )


def batched(call: Run, size: int | None) -> Run:
    """Wrap a function of batches of a fixed size; None for any size."""

    def run(batch: NDArray[Any]) -> Floats:
        if size is None or len(batch) == size:
            return call(batch)
        return np.concatenate([call(batch[start : start + size]) for start in range(0, len(batch), size)])

    return run


class Head(NamedTuple):
    """A zero-shot head, float32: description (see `write_heads`), vectors [C, D], or of the ages [S, A, R].

    `basis` [R, D] of the ages turns an embedding into R coordinates; None for classes.
    """

    description: dict[str, Any]
    vectors: NDArray[np.float32]
    basis: NDArray[np.float32] | None = None


class HeadDescription(BaseModel, extra="allow"):
    """What a reader needs of a head's description."""

    kind: Literal["classes", "ages"]
    cosine_scale: float
    labels: list[str] = []
    spacings_mm_per_px: list[Annotated[str, Field(pattern=r"^\d+\.\d\d$")]] = []
    ages_days: tuple[int, int] = (0, -1)


class SpacingNotInTableError(ValueError):
    """The age table has no row for a pixel spacing."""


def age_row(description: Mapping[str, Any], spacing: float) -> int:
    """Return the row of an age table for a pixel spacing, which counts as printed with two decimals.

    Raises:
        SpacingNotInTableError: There is none: ages at another spacing would be off by days.
    """
    known, printed = description["spacings_mm_per_px"], f"{spacing:.2f}"
    if printed in known:
        return int(known.index(printed))
    raise SpacingNotInTableError(
        f"pixel spacing {printed} mm of the model's input is not in the export's age table ({known[0]} to {known[-1]} "
        f"mm, {len(known)} rows); export again with --spacings=[{printed}]"
    )


def read_heads(path: Path) -> dict[str, Head]:
    """Read the heads back, by name: those of the benchmarks, and ``ages``.

    Raises:
        ValueError: The file is damaged, or a head's shape is not what its description says.
    """
    try:
        with safe_open(path, "np") as file:
            texts, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
        basis = tensors.pop(BASIS, None)
        heads = {
            name: Head(json.loads(texts[name]), vectors, basis if name == AGES else None)
            for name, vectors in tensors.items()
        }
        if basis is not None and (basis.ndim != 2 or not np.isfinite(basis).all()):
            raise ValueError(f"{BASIS} is not a finite matrix")
        for name, head in heads.items():
            said, shape = HeadDescription.model_validate(head.description), [*head.vectors.shape]
            ages, rank = said.ages_days[1] - said.ages_days[0] + 1, 0 if basis is None else len(basis)
            wanted = (
                [len(said.spacings_mm_per_px), ages, rank] if name == AGES else [len(said.labels), shape[-1]]
            )
            if (
                shape != wanted
                or (said.kind == "ages") != (name == AGES)
                or not np.isfinite(head.vectors).all()
            ):
                raise ValueError(f"head {name!r} is not the finite numbers {wanted} of its description")
    except ValidationError as error:
        raise ValueError(f"{path}: head {name!r}: {problems(error)}; export again") from error
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"{path}: not the heads of an export ({error_line(error)}); export again") from error
    return heads
