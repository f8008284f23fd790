"""Train a student (or teacher) and evaluate it, or evaluate a checkpoint.

usage: sonodistill train EXP DATA [options]
       sonodistill evaluate DATA CKPT|teacher [options]
       sonodistill fit|validate|test|predict --config FILE [options]
       sonodistill replay FOLDER
       sonodistill list

``train`` and ``evaluate`` are short forms of the Lightning CLI's ``fit`` and ``test``: EXP is an experiment and DATA a
data preset of ``sonodistill list``.

``replay`` repeats the step at which a run stopped because its loss was not finite, and says what was not finite: FOLDER
is the run's folder.

  --teacher=FILE, --student=FILE   weights of your own
  --protocol=FILE                  prompts of the zero-shot evaluation
  --quick                          bound corpus, epochs and evaluation: tries whether everything works
  --run=NAME                       name of the run's folder under outputs/EXP/
  --ckpt_path=FILE                 resume from a checkpoint
  --model.*, --data.*, --trainer.*, --schedule.*, --planes.*, --biometry.*
                                   any setting of the run; "sonodistill fit --help" lists them all
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path


def lightning_arguments(argv: list[str]) -> list[str]:
    """Return the Lightning CLI arguments of a command line.

    Args:
        argv: Command and arguments; ``train`` and ``evaluate`` are expanded, any other command is returned as it is.
    """
    from experiments.config import data_arguments, evaluation_arguments, expand_file_options
    from experiments.process import joined
    from experiments.recipe_files import explain_names, training_arguments
    from experiments.runs.run_record import teacher_arguments
    from models.checkpoints.weights import read_checkpoint

    command, rest = argv[0], joined(argv[1:])
    if command not in ("train", "evaluate"):
        return argv
    names = []
    while rest and not rest[0].startswith("-"):
        names.append(rest.pop(0))
    if len(names) != 2:
        raise ValueError(explain_names(command, names))
    if command == "train":
        experiment, preset = names
        options = expand_file_options(preset, rest, experiment=experiment)
        return [*training_arguments(experiment, preset), *data_arguments(preset), *options]
    preset, model = names
    folders = data_arguments(preset)
    arguments = evaluation_arguments(preset, model, [*folders, *rest])
    if Path(model).is_file():
        read_checkpoint(model)  # a damaged file is reported before anything else happens
    added = ["--representation.enabled=true", *teacher_arguments(model, rest)]
    return [*arguments, *folders, *added, *expand_file_options(preset, rest, scored=model)]


def main(argv: list[str]) -> int | None:
    """Run one Lightning command, or repeat a step."""
    if argv[0] == "replay":
        from experiments.replay import replay

        return replay(argv[1:])
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from experiments.runs.cli import SonoDistillCLI
    from experiments.runs.loggers import quieten_libraries
    from models.checkpoints.trust import apply_trust

    quieten_libraries()
    apply_trust(argv, closed=argv[0] == "evaluate")
    arguments = lightning_arguments(argv)
    try:
        sys.argv[1:] = arguments  # Lightning starts its other processes with these
        SonoDistillCLI(arguments, argv)
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # not zero, so that a sweep or a scheduler queues the run again
    except MisconfigurationException as error:  # Lightning refuses the trainer's settings
        raise ValueError(" ".join(str(error).split())) from error
    return None
