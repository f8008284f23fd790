"""Command line: ``python -m experiments fit --config experiments/srkd.yaml [Lightning CLI options]``.

``train EXP DATA`` and ``evaluate DATA`` are short forms behind ``make train`` and ``make evaluate``.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import traceback
from pathlib import Path

if not __package__:
    # Run by the folder's path: started again as the package that it is, from any working directory, whose own folders
    # and files take the place of no package.
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    os.environ["PYTHONSAFEPATH"] = "1"
    os.execv(sys.executable, [sys.executable, "-m", "experiments", *sys.argv[1:]])

from experiments.child_process import STOPPED, exit_status, status_for_make
from experiments.interpreter import without_secrets

COMMANDS = {
    "import-protocol": "experiments.import_protocol",
    "check-data": "experiments.check_data",
    "shards": "experiments.make_shards",
    "reproduce": "experiments.reproduce",
    "table": "experiments.table",
}
USAGE = """usage: python -m experiments fit|validate|test --config experiments/EXP.yaml [options]   (Lightning CLI)
       python -m experiments train EXP DATA [--teacher=FILE] [--student=FILE] [--protocol=FILE] [options]
       python -m experiments evaluate DATA CKPT|teacher [the same options]
       python -m experiments import-protocol|check-data|shards|reproduce|table --help
       python -m experiments list"""


def _short_form(argv: list[str]) -> list[str]:
    """Spell ``train`` and ``evaluate`` out as Lightning CLI arguments."""
    from experiments.recipes import evaluation_arguments, explain_names, training_arguments
    from experiments.run_record import teacher_arguments
    from experiments.shorthand import data_arguments, spell_out
    from models.weights import read_checkpoint

    command, rest = argv[0], argv[1:]
    names = []
    while rest and not rest[0].startswith("-"):
        names.append(rest.pop(0))
    if len(names) != 2:
        raise ValueError(explain_names(command, names))
    if command == "train":
        return [
            *training_arguments(*names),
            *data_arguments(names[1]),
            *spell_out(names[1], rest, experiment=names[0]),
        ]
    preset, model = names
    folders = data_arguments(preset)
    arguments = evaluation_arguments(preset, model, [*folders, *rest])
    if Path(model).is_file():
        read_checkpoint(model)  # a file that is none shows before anything else happens
    beyond = ["--representation.enabled=true", *teacher_arguments(model, rest)]
    return [*arguments, *folders, *beyond, *spell_out(preset, rest, scored=model)]


def run(argv: list[str]) -> None:
    """Run one command line.

    Raises:
        ValueError: The user's command, files or settings cannot be used; one line says why.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from experiments.cli import SonoDistillCLI
    from experiments.quiet import quieten_libraries
    from experiments.recipes import recipe_of
    from models.trust import settle_trust

    quieten_libraries()
    command = argv
    settle_trust(argv, closed=argv[0] == "evaluate")
    if argv[0] in ("train", "evaluate"):
        argv = _short_form(argv)
    try:
        sys.argv[1:] = argv  # what Lightning starts its other processes with
        SonoDistillCLI(recipe_of(argv), command)
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # not zero, so that a sweep or a scheduler queues the run again
    except MisconfigurationException as error:  # Lightning refuses the trainer's settings
        raise ValueError(" ".join(str(error).split())) from error


def _disk_full(error: Exception) -> str | None:
    """Explain that there is no space, or no quota, left to write to; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    where = f" for {error.filename2 or error.filename}" if error.filename else ""
    return (
        f"{error.strerror}{where}; free some and repeat the command, or go on from the last checkpoint with "
        "--ckpt_path=outputs/EXP/RUN/checkpoints/last.ckpt"
    )


@status_for_make()
def main() -> None:
    """Entry point: prints a user's mistake as one line instead of a traceback."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    argv = sys.argv[1:]
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return
    if argv[0] == "list":
        from experiments.recipes import experiment_choices, preset_names

        print("experiments (EXP=):", *experiment_choices())
        print("data presets (DATA=):", *preset_names())
        return
    try:
        if argv[0] in COMMANDS:
            sys.exit(importlib.import_module(COMMANDS[argv[0]]).main(argv[1:]))
        run(argv)
    except STOPPED as stop:
        print(f"\ninterrupted {stop}".rstrip(), file=sys.stderr)
        sys.exit(exit_status(stop))
    except (ValueError, OSError) as error:
        if os.environ.get("SONODISTILL_DEBUG"):
            traceback.print_exc()
        print(f"error: {without_secrets(_disk_full(error) or str(error))}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if not type(error).__module__.startswith("wandb."):
            raise
        # Named by its module: importing W&B for its classes would slow every command down.
        if os.environ.get("SONODISTILL_DEBUG"):
            traceback.print_exc()
        reason = " ".join(str(error).split())
        print(f"error: W&B: {reason}; without network: WANDB_MODE=offline", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    sys.path.append(str(Path.cwd()))  # classes of the user's own
    main()
