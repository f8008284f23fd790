"""Find the image files that a corpus's table names."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from datamodules.image_reading import IMAGE_SUFFIXES

_SHOWN = 5


def find_table(root: Path, name: str, corpus: str, remedy: str) -> Path:
    """Return the CSV file `name` in `root` or a direct subfolder of it.

    Raises:
        FileNotFoundError: `root` or the file is missing; the message carries `remedy`.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{corpus}: folder {root} does not exist; {remedy}")
    for candidate in (root / name, *sorted(root.glob(f"*/{name}"))):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{corpus}: {root} holds no {name}; {remedy}")


def find_images(
    root: Path, names: Iterable[str], folder: str, table: Path, data: str, missing: list[str] | None = None
) -> dict[str, Path]:
    """Map each name of a table, with or without an extension, to its image file.

    `root/folder` is looked at first; what is not there may lie anywhere beneath `root`, with any image
    extension in any letter case. A `missing` list takes the names without a file instead of an error.

    Raises:
        FileNotFoundError: Images are missing; the message counts them, names the first few, and the command that
            lists all, for which `data` is the corpus.
        ValueError: A name fits several files.
    """
    wanted = list(dict.fromkeys(names))
    found = _lookup(wanted, _index(root / folder, recursive=False))
    if len(found) < len(wanted):
        found = {**_lookup(wanted, _index(root, recursive=True)), **found}
    absent = [name for name in wanted if name not in found]
    if missing is not None:
        missing += absent
    elif absent:
        raise FileNotFoundError(
            f"{table}: {len(absent)} of {len(wanted)} images are missing under {root}: "
            f"{first_few(absent)}; {list_command(data, root)}"
        )
    for name, paths in found.items():
        if len(paths) > 1:
            raise ValueError(f"{table}: {name} fits several files, keep one of {[str(p) for p in paths]}")
    return {name: paths[0] for name, paths in found.items()}


def list_command(data: str, root: Path) -> str:
    """Return how to see every image of a corpus that is missing, for a message that names a few."""
    return f"to list all: make check-data DATA={data} ROOT={shlex.quote(str(root))} ARGS=--all"


def first_few(names: list[str]) -> str:
    """Join the first names of a list that may be long."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _lookup(names: list[str], index: dict[str, list[Path]]) -> dict[str, list[Path]]:
    return {name: index[_stem(name)] for name in names if _stem(name) in index}


def _index(folder: Path, *, recursive: bool) -> dict[str, list[Path]]:
    index: dict[str, list[Path]] = defaultdict(list)
    if folder.is_dir():
        for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
            if path.suffix.casefold() in IMAGE_SUFFIXES:
                index[_stem(path.name)].append(path)
    return index


def _stem(name: str) -> str:
    path = Path(name)
    return (path.stem if path.suffix.casefold() in IMAGE_SUFFIXES else path.name).casefold()
