"""ONNX files as functions on arrays, and zero-shot heads, without PyTorch.

ONNX Runtime is imported where it is used: a latency worker measures cold start and peak memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

Floats = NDArray[np.float32]
Run = Callable[[NDArray[Any]], Floats]
"""From a batch of pixel values [N, 3, S, S], or of tokens [N, L], to outputs [N, ...]."""

CPU = "CPUExecutionProvider"
HEADS, AGES = "heads.safetensors", "ages"


def onnx_runner(path: Path | str, threads: int = 0, provider: str = CPU) -> Run:
    """Load an ONNX file in ONNX Runtime.

    Args:
        path: The file. One with a static batch of one gets the samples of a batch one by one.
        threads: Threads of one operation; 0 leaves the choice to the runtime.
        provider: Execution provider.

    Raises:
        ValueError: ONNX Runtime fell back to another provider.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
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
    """A zero-shot head: description (see `write_heads`), and vectors [C, D] or [S, 175, D], float32."""

    description: dict[str, Any]
    vectors: NDArray[np.float32]


def read_heads(path: Path) -> dict[str, Head]:
    """Read the heads back, by name: those of the benchmarks, and ``ages``."""
    with safe_open(path, "np") as file:
        texts = file.metadata()
        return {
            name: Head(json.loads(texts[name]), file.get_tensor(name).astype(np.float32))
            for name in file.keys()  # noqa: SIM118 - a safetensors file is no dict
        }
