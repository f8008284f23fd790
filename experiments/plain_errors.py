"""Turn jsonargparse's usage pages into one line that names the key and the remedy."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

UNKNOWN = re.compile(r"(?:Unrecognized arguments|unrecognized arguments): (?P<keys>.*)")
SETTING = re.compile(r"Option '(?P<name>[^']+)' is not accepted")
ROOMS = ("datamodules", "models", "losses", "callbacks")


def run_plainly(run: Callable[[list[str]], object]) -> None:
    """Run a command on the process's arguments, printing a user's mistake as one line instead of a traceback."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        run(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


class PlainErrorParser(LightningArgumentParser):
    """The Lightning CLI's parser, which ends a user's mistake with one line on stderr and exit status 2.

    Half an option's name is refused as a typo, where argparse would take it for the option.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit."""
        parser = getattr(ex, "subcommand_parser", None) or self
        sys.stderr.write(f"error: {self._one_line(message, parser)}\n")
        sys.exit(2)

    def _one_line(self, message: str, parser: LightningArgumentParser) -> str:
        line = " ".join(part.strip() for part in message.splitlines() if part.strip())
        unknown = UNKNOWN.search(line)
        if unknown is None:
            setting = SETTING.search(line)
            return line if setting is None else _unknown_setting(setting["name"])
        key = unknown["keys"].split()[0].split("=")[0]
        options = [option for option in parser._option_string_actions if option.startswith("--")]
        close = difflib.get_close_matches(key, options, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the options: {_command(parser)} --help"
        return f"{key}: no such option; {hint}"


def _command(parser: LightningArgumentParser) -> str:
    """Return what a person types before the options; argparse puts usage in brackets between its words."""
    if " -m " in parser.prog:
        return parser.prog
    words = [word for word in parser.prog.split() if word.isalpha()]
    return " ".join([".venv/bin/python -m experiments", *(words or ["fit"])])


def _unknown_setting(name: str) -> str:
    """Explain a key that the chosen class does not take."""
    given = next((argument for argument in sys.argv if name in argument), name).split("=")[0]
    close = difflib.get_close_matches(name, _known_settings(), n=1)
    hint = f"did you mean {close[0]}?" if close else "see the class's arguments in its docstring"
    return f"{given}: {name} is no setting of the chosen class; {hint}"


def _known_settings() -> list[str]:
    """Return the names of the constructor arguments of all our public classes."""
    names: set[str] = set()
    for room in ROOMS:
        module = importlib.import_module(room)
        for public in module.__all__:
            kind = getattr(module, public)
            if inspect.isclass(kind):
                names.update(inspect.signature(kind).parameters)
    return sorted(names)
