"""Read checkpoints safely (tensors and primitives only) and load weights with every name and shape checked."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from itertools import dropwhile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import rank_zero_warn
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from models.checkpoints.integrity import METADATA, DamagedError, check_archive, check_header
from models.files import atomic
from models.messages import first_few, one_line

ENVELOPES = ("state_dict", "model", "model_state_dict")
"""Keys under which training codes nest the weights of a checkpoint."""
WRAPPERS = ("module", "model")
"""Name prefixes of DistributedDataParallel and of a module's attribute, in any order and number."""
COMPILED = "_orig_mod"
"""Part that torch.compile adds before a name or, for a compiled inner module, inside it."""
SONOCLIP_STEM = "conv1_alpha.weight"
"""End of a name that only SonoCLIP's image tower has (github.com/Harrison-one/SonoCLIP)."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read the top-level dictionary of a checkpoint, tensors on the CPU.

    Args:
        path: A ``.safetensors`` file, or a ``torch.save`` file of tensors and primitives.

    Raises:
        FileNotFoundError: The file does not exist.
        DamagedError: The file is truncated or was changed (see `models.checkpoints.integrity`).
        ValueError: The file holds other Python objects, which only running code could load, is not a checkpoint, or
            does not fit into memory.
        OSError: The file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a .safetensors, .pt or .ckpt file")
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            with safe_open(path, "pt") as file:
                check_header(path, tensors, file.metadata() or {})
            return {**tensors, **read_metadata(path)}
        names: list[str] = []
        if zipfile.is_zipfile(path):
            check_archive(path)
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        script = any(name.endswith("/constants.pkl") for name in names)
        content = {} if script else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise DamagedError(path, "unreadable, or it holds more than tensors and primitives") from error
        raise ValueError(
            f"{path}: refused, loading it would run {found[1]}; only tensors and primitives are loaded "
            "(ask its author for a state_dict or a .safetensors file)"
        ) from error
    except (DamagedError, OSError):  # an OSError comes from the disk or the network, not from the content
        raise
    except Exception as error:  # a damaged file can raise anything in the unpickler
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            raise ValueError(
                f"{path}: not enough memory to read it; end other programs and repeat"
            ) from error
        raise DamagedError(path, "not a readable PyTorch or safetensors file") from error
    if script:
        raise ValueError(
            f"{path}: refused, a TorchScript archive is code; if you trust it, keep its weights alone: "
            f"torch.save(torch.jit.load({path.name!r}, 'cpu').state_dict(), 'weights.pt')"
        )
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a dictionary of tensors")
    return dict(content)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return what a safetensors file of this project holds besides its tensors; empty for any other such file."""
    with safe_open(path, "pt") as file:
        return dict(json.loads((file.metadata() or {}).get(METADATA, "{}")))


def read_entry(path: str | Path, key: str) -> dict[str, Any] | None:
    """Return a dictionary that a checkpoint of this project holds at its top level, without reading its tensors.

    None where there is none, and for any other file or folder.
    """
    try:
        if str(path).endswith(".safetensors"):
            content: Any = read_metadata(path)
        elif zipfile.is_zipfile(path):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:
            return None
    except Exception:  # not our checkpoint; loading its weights reports what is wrong
        return None
    entry = content.get(key) if isinstance(content, dict) else None
    return entry if isinstance(entry, dict) else None


def write_entry(path: Path, key: str, entry: Mapping[str, Any]) -> None:
    """Add a dictionary of primitives to the top level of a ``.ckpt`` file, atomically."""
    content = {**read_checkpoint(path), key: dict(entry)}
    with atomic(path) as partial, partial.open("wb") as stream:
        torch.save(content, stream)  # into a path, torch makes a RuntimeError of a full disk


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint (see `read_checkpoint`) as one flat dictionary (see `flatten`)."""
    return flatten(read_checkpoint(path), str(path))


def flatten(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, out of a nested ``state_dict``, by their bare names.

    Raises:
        ValueError: There are no tensors, two have the same bare name, numbers are not finite, or it is SonoCLIP's.
    """
    for envelope in ENVELOPES:
        if isinstance(content.get(envelope), Mapping):
            content = content[envelope]
            break
    image = content.get("visual")
    names = [*content, *(image if isinstance(image, Mapping) else ())]
    if any(str(name).endswith(SONOCLIP_STEM) for name in names):
        raise ValueError(
            f"{source}: SonoCLIP's image tower, which is not the ViT-L-14-336 of open_clip: its stem adds a mask "
            "(conv1_alpha) and a depthwise convolution (dwconv), and the text tower is not in the file"
        )
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"{source}: holds no tensors; its keys are {_first(list(map(str, content)))}")
    numbers = {name: one for name, one in state.items() if one.is_floating_point() and not one.is_meta}
    broken = [name for name, one in numbers.items() if not one.isfinite().all()]
    if broken:
        raise ValueError(f"{source}: numbers that are not finite in {_first(broken)}; use another checkpoint")
    counts = Counter(map(bare_name, state))
    twice = [name for name in state if counts[bare_name(name)] > 1]
    if twice:
        raise ValueError(f"{source}: these names are the same without wrapper prefixes: {_first(twice)}")
    return {bare_name(name): value for name, value in state.items()}


def bare_name(name: str) -> str:
    """Return a tensor's name without wrapper prefixes: ``_orig_mod.module.text.x`` is ``text.x``."""
    *path, last = [part for part in name.split(".") if part != COMPILED]
    return ".".join([*dropwhile(lambda part: part in WRAPPERS, path), last])


def load_into(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    strict: bool = True,
    names: Mapping[str, str] | None = None,
    architecture: str | None = None,
) -> None:
    """Load weights into a model and account for every name and shape.

    Args:
        model: The model that receives them.
        state: Tensors by name.
        source: File that they come from, for messages.
        strict: Whether any difference is an error. Otherwise what fits is loaded and a warning names the rest.
        names: Name in `state` -> name in the file, where the two differ, for messages.
        architecture: Name of the model, for messages; None for its class.

    Raises:
        ValueError: Names or shapes differ, or, without `strict`, nothing fits.
    """
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    differences = mismatch(own, state, names or {})
    if differences:
        message = f"{source} does not fit {architecture or type(model).__name__}: {differences}"
        if strict or not fitting:
            raise ValueError(message)
        rank_zero_warn(message)
    model.load_state_dict(fitting, strict=False)


def mismatch(own: Mapping[str, Tensor], state: Mapping[str, Tensor], names: Mapping[str, str]) -> str:
    """Describe in one line how a checkpoint's tensors differ from a model's; an empty text where they fit."""
    kinds = {
        "missing": [name for name in own if name not in state],
        "unexpected": [names.get(name, name) for name in state if name not in own],
        "of another shape": [
            f"{names.get(name, name)} {list(state[name].shape)} for {list(own[name].shape)}"
            for name in own
            if name in state and own[name].shape != state[name].shape
        ],
    }
    return listed(kinds)


def listed(kinds: Mapping[str, list[str]]) -> str:
    """Count the names of each kind of difference and give the first, in one line; an empty text without names."""
    return "; ".join(f"{len(found)} {kind}: {_first(found)}" for kind, found in kinds.items() if found)


def _first(names: list[str]) -> str:
    return first_few([one_line(name, 80) for name in names])
