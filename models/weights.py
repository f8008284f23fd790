"""Read weights without running code, and load them without guessing."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import rank_zero_warn
from safetensors.torch import load_file
from torch import Tensor, nn

ENVELOPES = ("state_dict", "model", "model_state_dict")
"""Keys under which training codes nest the weights of a checkpoint."""
NAMED = 3
"""Names of a kind in a message. Of unexpected ones all are told, since each is a weight that would go unused."""
IN_A_LINE = 20
"""Unexpected names that a message's one line holds; more stand below it, a line each."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's top level.

    Args:
        path: A ``.safetensors`` file, or anything that ``torch.save`` wrote from tensors and primitives.

    Returns:
        The file's dictionary, tensors on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds other Python objects, which only running code could load, or is no
            checkpoint at all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a .safetensors, .pt or .ckpt file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, error)) from error
    except Exception as error:  # a damaged file can break the unpickler anywhere
        raise ValueError(f"{path}: not a readable PyTorch or safetensors file; download it again") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a dictionary of tensors")
    return dict(content)


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint's weights as one flat dictionary.

    Args:
        path: A ``.safetensors``, ``.pt`` or ``.ckpt`` file; see `read_checkpoint`.

    Returns:
        Tensors by name, on the CPU, out of a nested ``state_dict`` and without ``module.`` prefixes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is refused, unreadable, or holds no tensors.
    """
    return flatten(read_checkpoint(path), str(path))


def flatten(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by their bare names; `source` names it in errors.

    Raises:
        ValueError: There are no tensors.
    """
    for envelope in ENVELOPES:
        if isinstance(content.get(envelope), Mapping):
            content = content[envelope]
            break
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"{source}: holds no tensors; its keys are {_first(list(map(str, content)))}")
    # DistributedDataParallel puts the first before every name, torch.compile the second somewhere in it.
    return {name.removeprefix("module.").replace("_orig_mod.", ""): value for name, value in state.items()}


def load_into(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    strict: bool = True,
    names: Mapping[str, str] | None = None,
) -> None:
    """Load weights into a model, every name and shape accounted for.

    Args:
        model: The model that receives them.
        state: Tensors by name.
        source: Where they come from, for messages.
        strict: Whether any difference is an error. Otherwise what fits is loaded and the rest is warned of.
        names: Name in `state` -> name in the file, for messages, where the two differ.

    Raises:
        ValueError: Names or shapes differ (counts, all unexpected names, the first few others), or, without
            `strict`, nothing fits.
    """
    own = model.state_dict()
    in_file = names or {}
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unexpected or shapes:
        sized = [
            f"{in_file.get(name, name)} {list(state[name].shape)} for {list(own[name].shape)}"
            for name in shapes
        ]
        unused = [in_file.get(name, name) for name in unexpected]
        many = len(unused) > IN_A_LINE
        kinds = {
            "missing": _first(missing),
            "unexpected": "all below" if many else ", ".join(unused),
            "of another shape": _first(sized),
        }
        counts = {"missing": len(missing), "unexpected": len(unused), "of another shape": len(sized)}
        told = "; ".join(f"{counts[kind]} {kind}: {named}" for kind, named in kinds.items() if named)
        message = f"{source} does not fit {type(model).__name__}: {told}"
        message += "".join(f"\n  {name}" for name in unused) if many else ""
        if strict or len(missing) + len(shapes) == len(own):
            raise ValueError(message)
        rank_zero_warn(message)
    fitting = {name: value for name, value in state.items() if name not in {*unexpected, *shapes}}
    model.load_state_dict(fitting, strict=False)


def _first(names: list[str], count: int = NAMED) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _refusal(path: Path, error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return f"{path}: refused, it is damaged or holds more than tensors and primitives"
    return (
        f"{path}: refused, loading it would run {found[1]}; only tensors and primitives are loaded "
        "(ask its author for a state_dict or a .safetensors file)"
    )
