"""Command lines: a parser, child processes that stop together with this one, arguments as a shell would repeat them."""

from __future__ import annotations

import argparse
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

THREADS = "OMP_NUM_THREADS"


class TerminatedError(BaseException):
    """SIGTERM was received. Like Ctrl-C it passes by what catches every `Exception`."""


def first_process() -> bool:
    """Return whether this process prints and renames files for all processes of a run."""
    ranks = [os.environ[name] for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if name in os.environ]
    return [*ranks, "0"][0] == "0" and os.environ.get("NODE_RANK", "0") == "0"


def child_environment(jobs: int) -> dict[str, str]:
    """Return an environment in which ``python`` is this Python and `jobs` processes share the cores.

    The user's own OMP_NUM_THREADS wins.
    """
    folders = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    environment = {**os.environ, "PATH": folders}
    if jobs > 1:
        from datamodules.cores import usable_cores  # a second of imports

        environment.setdefault(THREADS, str(max(1, usable_cores() // jobs)))
    return environment


class Parser(argparse.ArgumentParser):
    """Argument parser with one-line errors and without abbreviated options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def wrapped(text: str) -> str:
    """Wrap a help text to the terminal; the explanation of an option stays in its column."""
    width = shutil.get_terminal_size().columns
    lines = []
    for line in re.sub(r"^(\S.*)\n(?=\S)", r"\1 ", text, flags=re.MULTILINE).split("\n"):
        option = re.match(r"(usage:)? +\S.*?  +", line)
        column, start = option.end() if option else 0, len(line) - len(line.removeprefix("usage:").lstrip())
        indent = column if 0 < column <= width // 2 else start + 4 * (start > 4)
        lines += textwrap.wrap(
            line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return "\n".join(lines)


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a table is read; see `table_reading`."""
    parser.add_argument(
        "--images", type=Path, dest="image_folder", help="folder that a table's paths are relative to"
    )
    add_column_option(parser)
    parser.add_argument("--outside", action="store_true", help="allow images outside of their folder")


def positive(text: str) -> int:
    """Parse a whole number above 0, as argparse does."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def add_column_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that maps a table's own column names, as (ours, theirs)."""
    parser.add_argument(
        "--column", type=_column, action="append", default=[], help="a table's own name: caption=Befund"
    )


def table_reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `datamodules.corpora.table.read_table` that the options of a command give."""
    return {"columns": dict(arguments.column), "images": arguments.image_folder, "outside": arguments.outside}


def _column(text: str) -> tuple[str, str]:
    """Parse ``caption=Befund``."""
    ours, equals, theirs = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: expected OURS=THEIRS, such as caption=Befund")
    return ours, theirs


STOPPED = (KeyboardInterrupt, TerminatedError)


def exit_status(stop: BaseException) -> int:
    """Return the exit status that one of `STOPPED` ends a program with: 130 or 143."""
    return 128 + (signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)


@contextmanager
def status_for_make() -> Iterator[None]:
    """Exit with status 1 instead of 2 under make, which then adds no line of its own (see the Makefile)."""
    try:
        yield
    except SystemExit as stop:
        if stop.code == 2 and "MAKELEVEL" in os.environ:
            sys.exit(1)
        raise


@contextmanager
def exit_quietly_on_broken_pipe() -> Iterator[None]:
    """Exit quietly with status 141 when what reads the output has ended, as in ``sonodistill list | head -1``."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        poll = select.poll()
        poll.register(sys.stdout, 0)
        if not poll.poll(0):  # it is another pipe that broke
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        sys.exit(128 + signal.SIGPIPE)


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `TerminatedError` on SIGTERM instead of leaving a child process behind."""

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise TerminatedError

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_children(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], outputs: Sequence[Path] = ()
) -> list[int]:
    """Run commands in parallel to their ends, and return their exit statuses in order; call it inside `terminable`.

    Args:
        commands: The command lines.
        environment: Their environment.
        outputs: Files that what each command prints is appended to; none: it goes where this process prints.

    Raises:
        KeyboardInterrupt: On Ctrl-C, after the children have saved their checkpoints and ended.
        TerminatedError: On SIGTERM, which the children get too, after they have ended.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("a")) for path in outputs]
        processes = [
            subprocess.Popen(command, env=environment, stdout=file, stderr=file)
            for command, file in zip_longest(commands, files)
        ]
    stop: BaseException | None = None
    while True:
        try:
            for process in processes:
                process.wait()
            break
        except TerminatedError as error:
            stop = error
            for process in processes:
                process.terminate()
        except KeyboardInterrupt as error:  # the terminal has sent it to the children too
            stop = error
    if stop is not None:
        raise stop
    return [process.returncode for process in processes]


def python_here() -> str:
    """Return this Python relative to the working directory: ``.venv/bin/python`` under make."""
    return relative(Path(sys.executable))


def program_here(name: str) -> str:
    """Return a program installed beside this Python, relative to the working directory."""
    return relative(Path(sys.executable).with_name(name))


def arguments_here() -> list[str]:
    """Return the arguments of this process with paths relative to the working directory."""
    inside = rf"(?<![\w./-]){re.escape(str(Path.cwd()))}/"
    return [re.sub(inside, "", argument) for argument in sys.argv[1:]]


def joined(words: Sequence[str]) -> list[str]:
    """Return a command line with each option and its value as one word: ``--run x`` as ``--run=x``."""
    found: list[str] = []
    for word in words:
        if found and re.fullmatch(r"--[^=]+", found[-1]) and not re.match("-[-a-z]", word):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def without_secrets(value: Any) -> Any:
    """Redact secrets of URLs (see `datamodules.redaction.redacted`); PyTorch is imported only where there is a URL."""
    if not re.search("://|pipe:", str(value)):
        return value
    from datamodules.redaction import redacted

    return redacted(value)


def relative(path: Path) -> str:
    """Write a path relative to the working directory where it is below it, else in full."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
