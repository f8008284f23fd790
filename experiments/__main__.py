"""Front door: ``sonodistill COMMAND`` = ``python -m experiments COMMAND``; one table of commands, one error handler.

Exit status: 0 done, 1 a check or gate failed, 2 the user's mistake, 130 or 143 interrupted by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import ast
import atexit
import errno
import importlib
import os
import re
import signal
import sys
import traceback
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

if not __package__:
    # Run by the folder's path: restart as a package, so that no folder of the working directory shadows one.
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    os.environ["PYTHONSAFEPATH"] = "1"
    os.execv(sys.executable, [sys.executable, "-m", "experiments", *sys.argv[1:]])

from experiments.process import (
    STOPPED,
    exit_quietly_on_broken_pipe,
    exit_status,
    run_children,
    status_for_make,
    terminable,
    without_secrets,
    wrapped,
)
from experiments.recipe_files import experiment_choices, preset_names

# Command -> module of experiments.commands, and what it does.
COMMANDS = {
    "train": ("train", "train an experiment on a data preset and evaluate it"),
    "evaluate": ("train", "evaluate a checkpoint on a data preset"),
    "fit": ("train", "Lightning CLI: train from --config files (also validate, test)"),
    "validate": ("train", ""),
    "test": ("train", ""),
    "predict": ("predict", "ask a checkpoint or an export about images: planes and ages as a table"),
    "export": ("export", "write ONNX, LiteRT and Core ML files with their proof of parity"),
    "demo": ("demo", "open a web page on which a student reads frames in the browser"),
    "latency": ("latency", "time a checkpoint or an export against its budget"),
    "sweep": ("sweep", "search hyper-parameters, on W&B or on this machine (run, agent, report)"),
    "report": ("results", "write one HTML file about finished runs"),
    "reproduce": ("results", "train a suite of experiments over seeds; continues where it stopped"),
    "table": ("results", "print results of a suite beside the paper's"),
    "data": (
        "data",
        "check a corpus, write shards, ingest DICOM, or simulate (check, shards, ingest, phantom)",
    ),
    "prompts": ("prompts", "check prompts for a benchmark of your own (check)"),
    "hub": (
        "hub",
        "push a checkpoint or an export to the Hugging Face Hub with its card, or pull one (push, pull)",
    ),
    "inspect": ("inspect", "describe a checkpoint and print the configuration that loads it"),
    "import-protocol": ("prompts", "read the official prompts from a checkout of FetalCLIP"),
    "bench": ("", "measure every stage against its baseline"),
    "replay": ("train", "repeat the step at which a run stopped because its loss was not finite"),
    "list": ("", "print the experiments and data presets"),
}
LAST = "--ckpt_path=outputs/EXP/RUN/checkpoints/last.ckpt"
# What torch says of a process that has ended -> what happened.
_PEER = "another process of this run has ended, and says why itself unless it was killed"
LOST = {
    "DataLoader worker": "a data worker has ended; if memory was short, lower --data.num_workers",
    "Connection closed by peer": _PEER,
    "Connection reset by peer": _PEER,
}
LIGHTNING = ("fit", "validate", "test")
COMMANDS_FOLDER = Path(__file__).parent / "commands"


def usage() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, (_, text) in COMMANDS.items() if text]
    return wrapped(
        "\n".join(["usage: sonodistill COMMAND ...", "", *lines, "", "sonodistill COMMAND --help says more"])
    )


def run(argv: list[str]) -> int:
    """Run one command line and return its exit status."""
    if argv[0] not in COMMANDS:
        raise ValueError(f"{argv[0]}: no such command; one of {', '.join(COMMANDS)}")
    if argv[0] == "list":
        print("experiments (EXP=):", *experiment_choices())
        print("data presets (DATA=):", *preset_names())
        return 0
    if argv[0] == "bench":  # a floor above
        if not (Path(__file__).parents[1] / "benchmarks").is_dir():
            raise ValueError("bench: an installation lacks the benchmarks; run make bench in the repository")
        with terminable():
            return run_children([[sys.executable, "-m", "benchmarks", *argv[1:]]], os.environ)[0]
    name = COMMANDS[argv[0]][0]
    if argv[0] == "predict" and any(word.startswith(("--config", "-c")) for word in argv[1:]):
        name = "train"  # Lightning's own command of that name
    asked = argv[2:] if argv[0] in ("hub", "sweep") and len(argv) > 2 else argv[1:]  # these have subcommands
    if asked in (["-h"], ["--help"]) and argv[0] not in LIGHTNING:
        text = (
            ast.get_docstring(ast.parse((COMMANDS_FOLDER / f"{name}.py").read_text(encoding="utf-8"))) or ""
        )
        if "usage:" in text:  # the others have a parser that answers without importing PyTorch
            print(wrapped(text))
            return 0
    module = importlib.import_module(f"experiments.commands.{name}")
    # Commands that share a module: it needs the command's name.
    return int(module.main(argv if name in ("train", "prompts", "results") else argv[1:]) or 0)


def _message(error: BaseException) -> str | None:
    """Return the one line that explains a user's mistake; None for a defect, which keeps its traceback."""
    if isinstance(error, SystemExit):
        return getattr(error, "message", None)  # of experiments.plain_errors.UsageError
    if isinstance(error, ModuleNotFoundError):
        extra = _extra_of(str(error.name).partition(".")[0])
        return extra and f"{error.name} is not installed: pip install '.[{extra}]' in the repository"
    text = " ".join(str(error).split())
    if type(error).__module__.startswith("wandb."):  # named by its module: importing W&B takes a second
        return f"W&B: {text}; without network: WANDB_MODE=offline"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" for {error.filename2 or error.filename}" if error.filename else ""
        return (
            f"{error.strerror}{where}; free some space and repeat the command, or resume from the last checkpoint with "
            f"{LAST}"
        )
    if isinstance(error, RuntimeError):
        if "out of memory" in text or "DefaultCPUAllocator" in text:
            return f"{text[:160]}; lower --data.batch_size, or set --model.grad_cache_chunk (docs/scale.md)"
        cause = next((cause for sign, cause in LOST.items() if sign in text), None)
        return cause and f"{cause} ({text[:160]}); resume from the last checkpoint with {LAST}"
    return str(error) if isinstance(error, ValueError | OSError) else None


def _extra_of(module: str) -> str | None:
    """Return the first of our optional dependencies that installs a module."""
    with suppress(PackageNotFoundError):  # a checkout that is not installed
        for line in requires("sonodistill") or []:
            found = re.match(r"([\w-]+).*extra == .(\w+)", line)
            if found and found[1].replace("-", "_") == module:
                return found[2]
    return None


@status_for_make()
@exit_quietly_on_broken_pipe()
def main() -> None:
    """Run the process's command line; a user's mistake is one line on stderr instead of a traceback."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # For classes of the user's own in the working directory, which the console script would not find. Last, so that no
    # file there shadows a package.
    sys.path.append(str(Path.cwd()))
    argv = sys.argv[1:]
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return
    try:
        if status := run(argv):
            sys.exit(status)
    except BrokenPipeError:
        raise
    except STOPPED as stop:
        print(f"\ninterrupted {stop}".rstrip(), file=sys.stderr)
        sys.exit(exit_status(stop))
    except (Exception, SystemExit) as error:
        message = _message(error)
        if message is None:
            raise
        if os.environ.get("SONODISTILL_DEBUG"):
            traceback.print_exc()
        print(f"error: {without_secrets(message)}", file=sys.stderr)
        sys.exit(2)


def program() -> None:
    """Run `main` as the whole of a process, after Ctrl-C or SIGTERM without the interpreter's own clean-up.

    With PyTorch loaded that takes two seconds, and only frees memory. Exit handlers, W&B's among them, do run.
    """
    stopped: list[int] = []

    def leave() -> None:
        if stopped:
            sys.stdout.flush()
            os._exit(stopped[0])

    atexit.register(leave)  # before any other handler, so that it runs after them
    try:
        main()
    except SystemExit as stop:
        if stop.code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            stopped.append(int(stop.code))
        raise


if __name__ == "__main__":
    program()
