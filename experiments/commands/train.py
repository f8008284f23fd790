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

import math
import signal
import sys
from pathlib import Path

from experiments.process import Parser


def lightning_arguments(argv: list[str]) -> list[str]:
    """Return the Lightning CLI arguments of a command line.

    Args:
        argv: Command and arguments; ``train`` and ``evaluate`` are expanded, any other command is returned as it is.

    Raises:
        ValueError: An experiment, preset or file is missing or unknown.
    """
    from experiments.config import data_arguments, evaluation_arguments, spell_out
    from experiments.recipe_files import explain_names, training_arguments
    from experiments.runs.run_record import teacher_arguments
    from models.checkpoints.weights import read_checkpoint

    command, rest = argv[0], argv[1:]
    if command not in ("train", "evaluate"):
        return argv
    names = []
    while rest and not rest[0].startswith("-"):
        names.append(rest.pop(0))
    if len(names) != 2:
        raise ValueError(explain_names(command, names))
    if command == "train":
        experiment, preset = names
        options = spell_out(preset, rest, experiment=experiment)
        return [*training_arguments(experiment, preset), *data_arguments(preset), *options]
    preset, model = names
    folders = data_arguments(preset)
    arguments = evaluation_arguments(preset, model, [*folders, *rest])
    if Path(model).is_file():
        read_checkpoint(model)  # a damaged file is reported before anything else happens
    beyond = ["--representation.enabled=true", *teacher_arguments(model, rest)]
    return [*arguments, *folders, *beyond, *spell_out(preset, rest, scored=model)]


def replay(argv: list[str]) -> int:
    """Repeat a step whose loss was not finite (see `callbacks.StopOnNonFiniteLoss`); 0 if its terms are the same.

    Raises:
        ValueError: The run's settings or the captured step cannot be used.
        FileNotFoundError: There is no captured step.
    """
    import numpy as np
    import torch
    from jsonargparse import Namespace
    from lightning import Fabric
    from torch import nn

    from callbacks.safety.steps import CAPTURE
    from experiments.runs.early_checks import built
    from lightning_modules import DistillationModule
    from models import DualEncoder, build
    from models.checkpoints.integrity import tensors_digest
    from models.checkpoints.trust import TRUST, check_classes, settle_trust
    from models.checkpoints.weights import load_into, read_checkpoint
    from models.files import read_yaml

    parser = Parser(prog="sonodistill replay", description=replay.__doc__)
    parser.add_argument("folder", type=Path, help=f"the run's folder, its {CAPTURE}/ or a file there")
    parser.add_argument(TRUST, action="store_true", help="build classes that the run's settings name")
    folder = parser.parse_args(argv).folder
    settle_trust(argv)
    if folder.suffix != ".pt":
        folder = (folder if folder.name == CAPTURE else folder / CAPTURE) / "rank0.pt"
    path, settings = folder, folder.parent.parent / "config.yaml"
    step, config = read_checkpoint(path), read_yaml(settings)
    if not {"student", "random", "batch"} <= set(step):
        raise ValueError(f"{path}: not a captured step, which a run leaves when its loss is not finite")
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise ValueError(f"{settings}: lacks model, so teacher and loss cannot be built")
    model = config["model"]
    check_classes(model, str(settings))
    teacher, loss = (Namespace(model[part]) if model.get(part) else None for part in ("teacher", "loss"))
    fabric = Fabric(devices=1, precision=step["precision"])
    student = build(step["student"]["recipe"], str(path))
    module = DistillationModule(student, built(DualEncoder, teacher), built(nn.Module, loss))
    own = {name: value for name, value in module.state_dict().items() if name.startswith("teacher.")}
    load_into(module, {**step["state_dict"], **own}, str(path))
    for name, value in step["scheduled"].items():
        setattr(module.loss, name, value)
    module.to(fabric.device).train()
    torch.set_rng_state(step["random"])
    if "random_cuda" in step and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(step["random_cuda"])
    with fabric.autocast():
        terms = module.compute_loss(fabric.to_device(step["batch"]))
    found = {name: float(value.detach()) for name, value in terms.items()}
    print(
        f"step {step['step']} (epoch {step['epoch']}, batch {step['batch_number']}), weights {step['weights']}"
    )
    if step["processes"] > 1:
        print(f"of {step['processes']} processes this repeats one: the run's loss saw the pairs of all")
    for name, value in found.items():
        print(f"  {name}: {value:.6g}, in the run {step['terms'].get(name, math.nan):.6g}")
    for name, value in {**step["state_dict"], **step["batch"]}.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not value.isfinite().all():
            print(f"  not finite: {name}, {int((~value.isfinite()).sum())} of {value.numel()} numbers")
    if tensors_digest(step["state_dict"]) != step["weights"]:
        raise ValueError(f"{path}: its weights do not match their digest")
    before, now = (np.array([terms[name] for name in step["terms"]]) for terms in (step["terms"], found))
    return 0 if np.allclose(before, now, equal_nan=True) else 1


def main(argv: list[str]) -> int | None:
    """Run one Lightning command, or print the names that ``EXP=`` and ``DATA=`` take.

    Raises:
        ValueError: The command, its files or its settings cannot be used.
    """
    if argv[0] == "list":
        from experiments.recipe_files import experiment_choices, preset_names

        print("experiments (EXP=):", *experiment_choices())
        print("data presets (DATA=):", *preset_names())
        return None
    if argv[0] == "replay":
        return replay(argv[1:])
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from experiments.runs.cli import SonoDistillCLI
    from experiments.runs.loggers import quieten_libraries
    from models.checkpoints.trust import settle_trust

    quieten_libraries()
    settle_trust(argv, closed=argv[0] == "evaluate")
    arguments = lightning_arguments(argv)
    try:
        sys.argv[1:] = arguments  # Lightning starts its other processes with these
        SonoDistillCLI(arguments, argv)
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # not zero, so that a sweep or a scheduler queues the run again
    except MisconfigurationException as error:  # Lightning refuses the trainer's settings
        raise ValueError(" ".join(str(error).split())) from error
    return None
