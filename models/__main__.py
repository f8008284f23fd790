"""``python -m models inspect FILE``: describe a checkpoint and print the configuration that loads it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from models.inspection import Description, describe
from models.layouts import SONODISTILL
from models.licences import published_file
from models.transformers_encoder import TransformersEncoder
from models.weights import read_checkpoint


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 1 with one line on the error stream."""
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser(
        "inspect", help="describe a checkpoint and print the configuration that loads it"
    )
    inspect.add_argument(
        "path", help="a .ckpt, .pt or .safetensors file, or a folder that save_pretrained wrote"
    )
    path = parser.parse_args(arguments).path
    try:
        print(report_folder(path) if Path(path).is_dir() else report(path))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def report(path: str) -> str:
    """Return the description of a checkpoint file, ready to print."""
    found, published = describe(read_checkpoint(path), path), published_file(path)
    image = "" if found.image_parameters is None else f", image tower {found.image_parameters:,}"
    lines = {
        "file": path,
        **({"published": f"{published.name} ({published.source})"} if published else {}),
        "layout": found.layout,
        "architecture": found.architecture + (" (fused: inference only)" if found.fused else ""),
        "parameters": f"{found.parameters:,}{image}",
        "dtype": ", ".join(f"{dtype} ({count} tensors)" for dtype, count in sorted(found.dtypes.items())),
        "licence": published.licence if published else found.licence,
    }
    return _table(lines) + "\nload with:\n" + _configuration(found, path)


def report_folder(path: str) -> str:
    """Return the description of a `transformers` folder, ready to print."""
    model = TransformersEncoder(path)
    lines = {
        "folder": path,
        "layout": "transformers",
        "architecture": type(model.model).__name__,
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "dtype": ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})),
        "preprocessing": str(model.preprocessing),
    }
    return _table(lines) + "\nload with:\n" + _yaml("models.TransformersEncoder", folder=path)


def _configuration(found: Description, path: str) -> str:
    if found.layout == SONODISTILL and found.recipe is not None:
        return _yaml("models.from_checkpoint", path=path)
    if found.recipe is not None:
        return _yaml("models.OpenCLIPEncoder", **found.recipe["init_args"], weights=path)
    if found.architecture == "unknown":
        return "  unknown architecture: give models.OpenCLIPEncoder a .json configuration of it"
    name = found.architecture.split(" or ")[0]
    wanted = dict.fromkeys(("mean", "std", "interpolation"), "FILL IN")
    return _yaml("models.OpenCLIPEncoder", name=name, weights=path, **wanted)


def _table(lines: dict[str, str]) -> str:
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name + ':':<{width}}{value}" for name, value in lines.items())


def _yaml(class_path: str, **arguments: object) -> str:
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    text = yaml.safe_dump({"class_path": class_path, "init_args": plain}, sort_keys=False)
    return "\n".join(f"  {line}" for line in text.splitlines())


if __name__ == "__main__":
    sys.exit(main())
