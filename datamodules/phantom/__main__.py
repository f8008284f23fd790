"""``python -m datamodules.phantom make`` writes a corpus, ``... preview OUT.png`` a contact sheet."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from datamodules.phantom.corpus import DEFAULT_ROOT, PhantomSettings, make_corpus
from datamodules.phantom.preview import write_preview


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.phantom", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="make the corpus unless it is there, and print its folder")
    make.add_argument("--root", type=Path, default=DEFAULT_ROOT, help="folder of all phantom corpora")
    make.add_argument("--workers", type=int, default=None, help="processes (default: all cores)")
    for field in fields(PhantomSettings):
        flag = "--" + field.name.replace("_", "-")
        make.add_argument(
            flag, type=type(field.default), default=field.default, help=f"default {field.default}"
        )
    preview = commands.add_parser("preview", help="draw a contact sheet of every plane")
    preview.add_argument("out", type=Path, help="PNG file to write")
    preview.add_argument("--seed", type=int, default=PhantomSettings.seed)
    options = parser.parse_args(arguments)
    try:
        if options.command == "preview":
            print(write_preview(options.out, options.seed))
        else:
            settings = PhantomSettings(
                **{field.name: getattr(options, field.name) for field in fields(PhantomSettings)}
            )
            print(make_corpus(settings, options.root, options.workers))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
