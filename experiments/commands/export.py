"""Write a student's ONNX, LiteRT and Core ML files, heads, golden files and model card, with their proof of parity.

usage: sonodistill export CKPT [options]

CKPT is a checkpoint, or random:NAME for an open_clip architecture with random weights (random:MobileCLIP2-S0).

  --out=FOLDER                 folder to write; default: export/ in the checkpoint's run
  --preset=DATA                data preset that calibrates and judges; default: that of the checkpoint's run
  --data.*                     any setting of the data
  --protocol=FILE              prompts of the zero-shot heads
  --spacings=[0.21,0.34]       pixel spacings (mm) of the age table, beside those of the corpus
  --only_spacings=true         only these spacings
  --skip=coreml,int8           variants to leave out: rows of parity.json, all coreml-*, litert-*, *-int8
  --text_encoder=true          export the text tower too
  --with_resize=true           export an ONNX file that pads and resizes a frame of any size itself
  --dynamic_batch=true         leave the batch axis of the ONNX files open
  --int8_from=CKPT             weights and ranges of a quantisation-aware training (EXP=srkd-qat)
  --keep_slow_int8=true        keep an int8 file that is slower than float32 here
  --split=test                 evaluation frames: test, val or all
  --frames=N                   at most so many evaluation frames a benchmark
  --calibration_frames=64      training frames that calibrate int8
  --age_cache=FOLDER           where age tables are kept for the next export; default: data/cache/ages (null: nowhere)
  --gates=FILE                 parity gates; default: export/parity/gates.yaml
  --trust                      build classes of other packages that the checkpoint names
"""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace

from datamodules import FetalDataModule
from datamodules.evaluation.protocol import Protocol
from experiments.config import data_arguments
from experiments.plain_errors import PlainErrorParser, built
from experiments.process import terminable
from experiments.recipe_files import DEFAULT_PRESET, data_class, preset_file, preset_of
from experiments.runs.run_record import RANDOM_PREFIX, read_record, run_config, training_facts
from export import Options, Subject, export_student
from export.build import require_replaceable
from export.parity.ledger import GateFailedError
from metrics.benchmarks import BENCHMARKS
from models import DualEncoder, OpenCLIPEncoder, QuantisedStudent, from_checkpoint
from models.checkpoints.trust import TRUST, apply_trust, check_classes
from models.checkpoints.weights import read_entry
from models.files import sha256
from models.student.base import ANSWERS, OWN_CLASSES
from models.student.manifest import MANIFEST

EXPORT_HINT = "give the folder that make export CKPT=... wrote"
PROGRAM = ".venv/bin/python -m experiments export"
LISTS = ("skip", "spacings")  # options that take several values
RANDOM_SPACING = 0.30
AGE_CACHE = "data/cache/ages"
RANDOM_FRAMES = 48  # a model with random weights is exported for its speed; a few frames prove the graph


def load_model_to_export(checkpoint: str) -> tuple[DualEncoder, dict[str, Any]]:
    """Load what is to be exported.

    Args:
        checkpoint: A checkpoint, or ``random:NAME`` for an open_clip architecture with random weights
            (``random:MobileCLIP2-S0``), which is good for measuring size and speed.

    Returns:
        The model, and where it comes from (the manifest's ``source``).
    """
    if checkpoint.startswith(RANDOM_PREFIX):
        torch.manual_seed(0)
        model: DualEncoder = OpenCLIPEncoder(checkpoint.removeprefix(RANDOM_PREFIX))
        return model, {"weights": "random", "checkpoint": None, "checkpoint_sha256": None}
    path = Path(checkpoint)
    require_model(path)
    source = {"weights": "trained", "checkpoint": path.name, "checkpoint_sha256": sha256(path)}
    student = from_checkpoint(checkpoint)
    if isinstance(student, QuantisedStudent):
        raise ValueError(
            f"CKPT={checkpoint}: trained with int8 in the loop; export the student that it continued from: "
            f'make export CKPT=outputs/srkd/RUN/checkpoints/best.ckpt ARGS="--int8_from={checkpoint}"'
        )
    return student, source


def require_model(path: Path) -> None:
    """Check that a path may hold a model: a file, or a folder that `transformers` saved."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint and no export (make export CKPT=... writes one)")
    if not path.is_dir() or (path / "config.json").is_file():
        return
    if (path / MANIFEST).is_file():
        raise ValueError(f"CKPT={path}: an export; give the checkpoint that it was made from")
    run = path.parent if path.name == "checkpoints" else path
    best, export = run / "checkpoints" / "best.ckpt", run / "export"
    ways = [f"CKPT={best}"] if best.is_file() else []
    ways += [f"its export, EXPORT={export}"] if (export / MANIFEST).is_file() else []
    if ways:
        raise ValueError(f"{path}: a run's folder; give {' or '.join(ways)}")
    raise ValueError(f"{path}: no {MANIFEST}; {EXPORT_HINT}")


def load_trained_int8(checkpoint: str) -> QuantisedStudent:
    """Load what ``--int8_from`` names."""
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f"--int8_from={checkpoint}: no such checkpoint")
    student = from_checkpoint(checkpoint)
    if not isinstance(student, QuantisedStudent):
        raise ValueError(
            f"--int8_from={checkpoint}: not trained with int8 in the loop; make train EXP=srkd-qat"
        )
    return student


def default_target(checkpoint: str) -> Path:
    """Choose the folder of an export: ``export/`` in the run's folder, beside a checkpoint, or in outputs."""
    if checkpoint.startswith(RANDOM_PREFIX):
        return Path("outputs") / f"random-{checkpoint.removeprefix(RANDOM_PREFIX)}" / "export"
    folder = Path(checkpoint).resolve().parent
    if folder.name == "checkpoints":
        return folder.parent / "export"
    return folder / f"{Path(checkpoint).stem}-export"


def normalise_options(argv: list[str]) -> list[str]:
    """Write every option as ``--name=value``: dashes in names, bare flags, values after a blank, and lists.

    What is given of a list in several places is joined: ``--skip=int8 --skip coreml`` leaves both out.
    """
    flags = {name for name, field in Options.__dataclass_fields__.items() if field.default is False} | {
        "trust"
    }
    normalised: list[str] = []
    lists: dict[str, list[str]] = {}
    left = deque(argv)
    while left:
        option, equals, value = left.popleft().partition("=")
        if not option.startswith("--"):
            normalised.append(option + equals + value)
            continue
        name = option.removeprefix("--").replace("-", "_")
        if not equals and name in flags and (not left or left[0] not in ("true", "false")):
            equals, value = "=", "true"
        elif not equals and left and not left[0].startswith("-"):
            equals, value = "=", left.popleft()
        if name in LISTS and equals:
            lists.setdefault(name, []).append(value.removeprefix("[").removesuffix("]"))
        else:
            normalised.append(f"--{name}{equals}{value}")
    return normalised + [f"--{name}=[{','.join(filter(None, values))}]" for name, values in lists.items()]


def default_data(preset: str, config: dict[str, Any] | None) -> dict[str, Any]:
    """Return the settings of the corpus that calibrates and judges.

    A run's own settings come before its preset's: with another split the student would be scored on patients that
    it was trained on.
    """
    if config is not None and config["data"].get("class_path") == data_class(preset):
        return dict(config["data"])
    return dict(yaml.safe_load(preset_file(preset).read_text(encoding="utf-8"))["data"])


def parse(argv: list[str]) -> Namespace:
    """Read a command line.

    The corpus is the preset's that it names, else the one that the checkpoint's run was trained on, else the
    phantom. ``HC18_ROOT``, ``PLANES_ROOT`` and ``SHARDS`` are the data folders, as in training.
    """
    apply_trust(argv)
    argv = normalise_options(argv)
    checkpoint = next((word for word in argv if not word.startswith("-")), RANDOM_PREFIX)
    named = [word.partition("=")[2] for word in argv if word.startswith("--preset=")]
    config = run_config(checkpoint)
    preset = named[-1] if named else preset_of(config) or DEFAULT_PRESET
    data = default_data(preset, config)
    check_classes(data, f"the config.yaml of {checkpoint}")
    parser = PlainErrorParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("checkpoint", type=str)
    parser.add_argument("--preset", type=str, default=preset)
    parser.add_argument("--out", type=str | None, default=None)
    parser.add_argument(TRUST, type=bool, default=False)
    parser.add_argument("--protocol", type=str | None, default=None)
    parser.add_class_arguments(Options, None)
    parser.add_subclass_arguments(FetalDataModule, "data")
    parser.set_defaults({"data": data, "age_cache": AGE_CACHE})
    return parser.parse_args([*data_arguments(preset), *argv])


def options_of(config: Namespace) -> Options:
    """Return the options that a command line asks for."""
    values = {name: config[name] for name in Options.__dataclass_fields__}
    if config.checkpoint.startswith(RANDOM_PREFIX):
        values["frames"] = RANDOM_FRAMES if values["frames"] is None else values["frames"]
        # Embedding thousands of age prompts with a full-size text tower takes an hour and proves nothing.
        values["spacings"], values["only_spacings"] = values["spacings"] or [RANDOM_SPACING], True
    return Options(**values)


def prompts_of(checkpoint: str, file: str | None) -> tuple[Protocol, dict[str, Any] | None]:
    """Return the prompts of an export and the checkpoint's calibration; None where that is for other prompts.

    A user's own benchmark whose prompts have changed since the training loses its threshold.

    Args:
        checkpoint: The checkpoint.
        file: The user's prompt file; None takes the prompts of the calibration, else the default ones.
    """
    calibration = read_entry(checkpoint, ANSWERS)
    if calibration is not None:
        trained = read_entry(checkpoint, OWN_CLASSES) or {}
        now = {one.name: dict(one.classes) for one in BENCHMARKS.values()}
        changed = sorted(
            name for name in calibration["none_below"] if now.get(name, {}) != trained.get(name, {})
        )
        if changed:
            print(f'export: {", ".join(changed)}: prompts changed since the training, so no image is "none"')
        below = {name: value for name, value in calibration["none_below"].items() if name not in changed}
        calibration = {**calibration, "none_below": below}
    if file is None and calibration is not None:
        return Protocol.of(calibration["prompts"], checkpoint), calibration
    protocol = Protocol.load(file)
    if calibration is not None and calibration["prompts"] == protocol.content():
        return protocol, calibration
    if not checkpoint.startswith(RANDOM_PREFIX):
        print('export: not calibrated for these prompts, so no age has an interval and no image is "none"')
    return protocol, None


@terminable()
def main(argv: list[str]) -> int:
    """Run one command line and return its exit status: 1 if an exact variant missed its gate."""
    config = parse(argv)
    data = built(FetalDataModule, config.data)  # registers benchmarks of one's own, which --skip may name
    options = options_of(config)
    target = Path(config.out) if config.out else default_target(config.checkpoint)
    require_replaceable(target.resolve())
    student, source = load_model_to_export(config.checkpoint)
    source |= {
        "data": config.preset,
        "training": training_facts(run_config(config.checkpoint), read_record(config.checkpoint)),
    }
    trained = None
    if config.int8_from is not None:
        trained = load_trained_int8(config.int8_from)
        source["int8_checkpoint_sha256"] = sha256(Path(config.int8_from))
        source["int8_training"] = training_facts(run_config(config.int8_from), read_record(config.int8_from))
    protocol, calibration = prompts_of(config.checkpoint, config.protocol)
    try:
        export = export_student(
            Subject(student, data, protocol, source, trained, calibration), target, options
        )
    except GateFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"exported to {export.folder}: see MODEL_CARD.md, parity.json and docs/deploy.md")
    return 0
