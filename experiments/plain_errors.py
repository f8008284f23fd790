"""The command-line parser: a mistake becomes one line that names the option and the nearest existing one."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from itertools import pairwise
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger

from experiments.process import wrapped
from models.checkpoints.trust import untrusted_import
from models.messages import nearest

RUN_FOLDER = "."  # as a logger's save_dir, stands for the run's folder
# jsonargparse lists every type that it tried; these lines of it say nothing about the mistake.
NOISE = re.compile(r"Does not validate|Subtypes:|Errors:|Given value|Expected a path but|Problem with given")
EXPECTED = re.compile(r"Expected an? (.+?)(?:[.:] (?:Got value: )?.*)?$")
# What other frameworks call our options.
SYNONYMS = {
    word: option
    for option, words in {
        "--model.learning_rate": "lr",
        "--model.weight_decay": "wd decay",
        "--model.warmup_steps": "warmup",
        "--trainer.max_epochs": "epochs num_epochs num_train_epochs",
        "--trainer.max_steps": "steps",
        "--data.batch_size": "bs batch batchsize per_device_train_batch_size",
        "--data.num_workers": "workers",
        "--seed_everything": "seed",
        "--trainer.accelerator": "gpu device",
        "--trainer.devices": "gpus",
        "--trainer.precision": "amp fp16 bf16",
        "--trainer.gradient_clip_val": "clip grad_clip max_grad_norm",
        "--trainer.accumulate_grad_batches": "gradient_accumulation_steps accumulate",
        "--ckpt_path": "resume resume_from_checkpoint ckpt checkpoint",
        "--run": "name run_name",
        "--model.loss.init_args.temperature": "temperature",
        "--schedule.init_args.start": "beta",
        "--model.student.init_args.image_size": "image_size img_size",
    }.items()
    for word in words.split()
}
ROOMS = ("datamodules", "models", "losses", "callbacks")


class UsageError(SystemExit):
    """A mistake in a command line: exit status 2 with one line.

    Not a ValueError, which jsonargparse catches and rewords when a subcommand raises it.

    Attributes:
        message: The line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(2)
        self.message = message


class PlainErrorParser(LightningArgumentParser):
    """The Lightning CLI's parser with one-line errors; abbreviated options are rejected."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> list[str]:
        """Add a class's arguments; a logger writes into the run's folder by default.

        Lightning's own loggers require a ``save_dir``, and write to ``lightning_logs/version_N`` in it.
        """
        added: list[str] = super().add_class_arguments(theclass, *args, **kwargs)
        if inspect.isclass(theclass) and issubclass(theclass, Logger):
            numbered = self.get_default("name") == "lightning_logs" if "name" in added else False
            for action in self._actions:
                if action.dest == "save_dir":
                    action.required, action.default = False, RUN_FOLDER
                elif numbered and action.dest in ("name", "version"):
                    action.default = ""
        return added

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Return the help, wrapped where jsonargparse does not: its usage and the titles of groups."""
        return wrapped(super().format_help(*args, **kwargs))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a `UsageError` with one line."""
        if unknown := re.match(r"[Uu]nrecognized arguments: ([^\s=]+)", message):
            parser = getattr(ex, "subcommand_parser", None) or self
            raise UsageError(f"{unknown[1]}: no such option{parser._hint(unknown[1])}")
        if setting := re.match(r"Option '([^']+)' is not accepted", message):
            given = next((word for word in sys.argv if setting[1] in word), setting[1]).split("=")[0]
            raise UsageError(
                f"{given}: the chosen class has no setting {setting[1]}{_class_hint(given, setting[1])}"
            )
        if lacking := re.match(r"the following arguments are required: (\w+\.)?(.+)", message):
            inner = f"{lacking[2]}: a chosen class needs it in its init_args"
            raise UsageError(f"--{lacking[2]}: give a value" if lacking[1] else inner)
        if missing := re.match(r"argument (--[\w.]+)\S*: expected", message):
            # argparse names --data for a setting of the data.
            lone = [
                word for word, after in pairwise([*sys.argv, "--"]) if "=" not in word and after[:2] == "--"
            ]
            option = next((word for word in lone if f"{word}.".startswith(f"{missing[1]}.")), missing[1])
            raise UsageError(f"{option}: give a value, {option}=VALUE")
        if key := re.match(r'Parser key "([^"]+)"', message):
            given, reason = _given(key[1]), _reason(message, ex)
            value = re.search(r"(?:Got|Given) value: (.*)", message)
            if value and "=" not in given and reason.startswith("expected"):
                reason += f", not {value[1]}"
            raise UsageError(f"{given}: {reason}")
        raise UsageError(" ".join(message.split()))

    def instantiate(self, *args: Any, **kwargs: Any) -> Any:
        """Build what a configuration describes."""
        try:
            return super().instantiate(*args, **kwargs)
        except ValueError as error:
            if "Does not validate" not in str(error):
                raise
            raise ValueError(_reason(str(error), error)) from error

    def _hint(self, key: str) -> str:
        """Suggest the option that was most likely meant: another framework's name for it, or a typo."""
        word = key.lstrip("-").rpartition(".")[2].replace("-", "_").lower()
        meant = SYNONYMS.get(word, "")
        options = [name for name in self._option_string_actions if name.startswith("--") and name != "--help"]
        section, _, rest = key.lstrip("-").partition(".")
        sections = {name.lstrip("-").partition(".")[0] for name in options}
        if rest and section not in sections:
            known = {name: f"--{name}.{rest}" for name in sections}
            if hint := nearest(section, known):
                return hint
        if meant and any(f"{meant}.".startswith(f"{option}.") for option in options):
            return f"; did you mean {meant}?"
        if "--data" in options:  # whose settings are those of its class
            options += [f"--data.{name}" for name in _settings_of("datamodules")]
        by_name = {option.rpartition(".")[2].lstrip("-"): option for option in reversed(options)}
        whole = {option.lstrip("-"): option for option in options}
        return (
            nearest(word, by_name, likeness=1)
            or nearest(key.lstrip("-"), whole)
            or nearest(word, by_name)
            or "; --help lists the options"
        )


def built(kind: Any, settings: Any) -> Any:
    """Build an object from class_path and init_args; None for null.

    Args:
        kind: Base class, or ``list[Base]`` for a list of such settings.
        settings: The settings, a dictionary, a namespace or a list of these.
    """
    if not settings:
        return None
    parser = PlainErrorParser()  # the run's own parser would build the teacher too
    parser.add_argument("--part", type=kind)
    part = settings.as_dict() if isinstance(settings, Namespace) else settings
    return parser.instantiate(parser.parse_object({"part": part})).part


def _class_hint(given: str, setting: str) -> str:
    """Suggest a setting of the class that the command line names for an option, else of any public class."""
    if meant := SYNONYMS.get(setting.lower()):
        return f"; did you mean {meant}?"
    owner = given.rpartition(".")[0].removesuffix(".init_args")  # --model.loss of --model.loss.temperature
    places = (given, owner, f"{owner}.class_path")
    values = [value for option, _, value in (word.partition("=") for word in sys.argv) if option in places]
    named = [found for value in values for found in re.findall(rf"\b({'|'.join(ROOMS)})\.(\w+)", value)]
    kinds = [getattr(importlib.import_module(room), name, None) for room, name in named]
    settings = [
        name for kind in kinds if inspect.isclass(kind) for name in inspect.signature(kind).parameters
    ]
    if settings:
        return nearest(setting, settings) or f"; it has {', '.join(settings)}"
    return nearest(setting, {n for room in ROOMS for n in _settings_of(room) if n != setting})


def _reason(message: str, error: BaseException | None) -> str:
    """Return the lines of jsonargparse's message that say something, as one."""
    if error is not None and (refusal := untrusted_import(error)) is not None:
        return refusal
    text = re.sub(r'Parser key "[^"]+":', "\n", message).replace('"', "'").replace("NoneType", "null")
    text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", text)
    text = re.sub(r"typing\.Literal\[(.*?)\]", lambda m: m[1].replace("'", "").replace(", ", " or "), text)
    lines = [line.strip(" -") for line in text.splitlines()]
    lines = list(dict.fromkeys(line for line in lines if line and not NOISE.match(line)))
    kinds = [kind for line in lines if (match := EXPECTED.match(line)) for kind in match[1].split(" or ")]
    others = [line for line in lines if not EXPECTED.match(line)]
    # After the error of a class's own check come jsonargparse's words about the ways to name a class.
    syntax = next((k for k, line in enumerate(others) if line.startswith("Not a valid subclass")), 0)
    reason = "; ".join(others[:syntax] or others) or f"expected {' or '.join(dict.fromkeys(kinds))}"
    path = re.search(r"class_path '([\w.]+)'", text)
    if (
        path
        and path[1].partition(".")[0] in ROOMS
        and re.search(r"has no attribute|No \w+ attribute", reason)
    ):  # lazy_loader's words
        public = [f"{room}.{name}" for room in ROOMS for name in importlib.import_module(room).__all__]
        reason += nearest(path[1], public)
    return reason


def _given(key: str) -> str:
    """Return the argument that sets a key, or the key where none or several may have set it."""
    given = [
        argument
        for argument in sys.argv[1:]
        if argument.startswith("--")
        and f".{argument[2:].split('=')[0]}".removesuffix(".class_path").endswith(f".{key}")
    ]
    return given[0] if len(given) == 1 else key


def _settings_of(room: str) -> set[str]:
    """Return the names of the constructor arguments of a package's public classes."""
    module = importlib.import_module(room)
    classes = (getattr(module, public) for public in module.__all__)
    return {name for kind in classes if inspect.isclass(kind) for name in inspect.signature(kind).parameters}
