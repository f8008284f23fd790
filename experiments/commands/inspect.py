"""Describe a checkpoint and print the configuration that loads it.

usage: sonodistill inspect PATH

PATH is a .ckpt, .pt or .safetensors file, or a folder that save_pretrained wrote. No class that it names is imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from experiments.process import Parser
from experiments.runs.run_record import inherited_licence
from lightning_modules.distillation import RUN_RECORD
from models import TransformersEncoder
from models.checkpoints.inspection import STUDENT, describe
from models.checkpoints.licences import published_file
from models.checkpoints.weights import read_checkpoint

FILL_IN = dict.fromkeys(("mean", "std", "interpolation"), "FILL IN")


def main(argv: list[str]) -> None:
    """Print the description."""
    parser = Parser(prog="sonodistill inspect", description=__doc__)
    parser.add_argument(
        "path", help="a .ckpt, .pt or .safetensors file, or a folder that save_pretrained wrote"
    )
    path = parser.parse_args(argv).path
    lines, configuration = _folder(path) if Path(path).is_dir() else _file(path)
    width = max(map(len, lines)) + 2
    for name, value in lines.items():
        print(f"{name + ':':<{width}}{value}")
    print("load with:")
    for line in configuration.splitlines():
        print(f"  {line}")


def _file(path: str) -> tuple[dict[str, str], str]:
    """Return the description of a checkpoint file, line by line, and the YAML that loads it."""
    content, published = read_checkpoint(path), published_file(path)
    found, inherited = describe(content, path), inherited_licence(content.get(RUN_RECORD) or {})
    image = "" if found.image_parameters is None else f", image tower {found.image_parameters:,}"
    lines = {
        "file": path,
        **({"published": f"{published.name} ({published.source})"} if published else {}),
        "layout": found.layout,
        "architecture": found.architecture + (" (fused: inference only)" if found.fused else ""),
        "parameters": f"{found.parameters:,}{image}",
        "dtype": ", ".join(f"{dtype} ({count} tensors)" for dtype, count in sorted(found.dtypes.items())),
        "licence": published.licence if published else inherited or found.licence,
    }
    if found.arguments is not None:
        return lines, _yaml("models.OpenCLIPEncoder", **found.arguments, weights=path)
    if STUDENT in content:
        return lines, _yaml("models.from_checkpoint", path=path)
    if not found.candidates:
        return lines, "unknown architecture: give models.OpenCLIPEncoder a .json configuration of it"
    name = found.architecture if len(found.candidates) == 1 else f"FILL IN: {found.architecture}"
    return lines, _yaml("models.OpenCLIPEncoder", name=name, weights=path, **FILL_IN)


def _folder(path: str) -> tuple[dict[str, str], str]:
    """Return the description of a `transformers` folder, line by line, and the YAML that loads it."""
    model = TransformersEncoder(path)
    lines = {
        "folder": path,
        "layout": "transformers",
        "architecture": type(model.model).__name__,
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "dtype": ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})),
        "preprocessing": str(model.preprocessing),
    }
    return lines, _yaml("models.TransformersEncoder", folder=path)


def _yaml(class_path: str, **arguments: Any) -> str:
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    return yaml.safe_dump({"class_path": class_path, "init_args": plain}, sort_keys=False)
