"""Write the image encoder for LiteRT (``.tflite``): float32, and with int8 weights.

In the int8 file the activations stay float32 and are quantised while it runs, by their own range: no calibration.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.graphs.contract import INPUT_NAME
from models.messages import error_line


def litert_installed() -> bool:
    """Return whether LiteRT files can be written and run here."""
    return all(
        find_spec(name) is not None for name in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert")
    )


def write_litert(module: nn.Module, path: Path, side: int) -> None:
    """Convert a `PixelEncoder` to a float32 file with the signature ``image`` [1, 3, S, S] to ``output_0`` [1, D].

    Raises:
        ValueError: The module cannot be converted.
    """
    _in_a_process(path, "litert", _convert, module, path, side)


def quantise_litert(source: Path, target: Path) -> None:
    """Write a copy of a float32 file with int8 weights, one scale a channel.

    Raises:
        ValueError: The file cannot be quantised.
    """
    _in_a_process(target, "litert-int8", _quantise, source, target)


def _in_a_process(path: Path, variant: str, work: Callable[..., None], *arguments: Any) -> None:
    """Run a function in a process of its own: the converter starts JAX's threads, after which a fork may hang."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=_silent) as pool:
            pool.submit(work, *arguments).result()
    except Exception as error:  # any failure of the converter has the same remedy
        raise ValueError(
            f"{path.name}: not written ({error_line(error)}); leave it out with --skip={variant}"
        ) from error


def _silent() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _convert(module: nn.Module, path: Path, side: int) -> None:
    import litert_torch

    example = torch.rand(1, 3, side, side) * 255
    with torch.no_grad():
        litert_torch.convert(module, sample_kwargs={INPUT_NAME: example}).export(str(path))


def _quantise(source: Path, target: Path) -> None:
    from ai_edge_quantizer import quantizer, recipe

    work: Any = quantizer.Quantizer(str(source), recipe.dynamic_wi8_afp32())
    work.quantize(serialize_to_path=str(target), enable_progress_report=False)
