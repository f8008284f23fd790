"""Turn jsonargparse's usage pages into one line that names the key and the remedy."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger

from experiments.child_process import status_for_make
from experiments.interpreter import without_secrets
from models.trust import refused

UNKNOWN = re.compile(r"(?:Unrecognized arguments|unrecognized arguments): (?P<keys>.*)")
SETTING = re.compile(r"Option '(?P<name>[^']+)' is not accepted")
KEY = re.compile(r"""Parser key "(?P<key>[^"]+)":\s*""")
NO_VALUE = re.compile(r"argument (?P<options>\S+): expected (?:one|at least one) argument")
CLASS_PATH = re.compile(r"Problem with given class_path '(?P<path>[^']+)'")
EXPECTED = re.compile(r"Expected an? (?P<kind>.*?)(?:\. Got value: .*)?$", re.MULTILINE)
VALUE = re.compile(r"(?:Got|Given) value: (?P<value>.*)")
UNION = "Does not validate against any of the Union subtypes"
WRAPPER = re.compile(rf"{UNION}|Parser key|Problem with given class_path|Expected a path but")
RUN_FOLDER = "."  # where a logger's save_dir says so, the run's folder stands in its place
# What other frameworks call our options.
SYNONYMS = {
    "lr": "--model.learning_rate",
    "wd": "--model.weight_decay",
    "decay": "--model.weight_decay",
    "warmup": "--model.warmup_steps",
    "epochs": "--trainer.max_epochs",
    "num_epochs": "--trainer.max_epochs",
    "num_train_epochs": "--trainer.max_epochs",
    "steps": "--trainer.max_steps",
    "bs": "--data.batch_size",
    "batch": "--data.batch_size",
    "batchsize": "--data.batch_size",
    "per_device_train_batch_size": "--data.batch_size",
    "workers": "--data.num_workers",
    "seed": "--seed_everything",
    "gpu": "--trainer.accelerator",
    "device": "--trainer.accelerator",
    "gpus": "--trainer.devices",
    "amp": "--trainer.precision",
    "fp16": "--trainer.precision",
    "bf16": "--trainer.precision",
    "clip": "--trainer.gradient_clip_val",
    "grad_clip": "--trainer.gradient_clip_val",
    "max_grad_norm": "--trainer.gradient_clip_val",
    "gradient_accumulation_steps": "--trainer.accumulate_grad_batches",
    "accumulate": "--trainer.accumulate_grad_batches",
    "resume": "--ckpt_path",
    "resume_from_checkpoint": "--ckpt_path",
    "ckpt": "--ckpt_path",
    "checkpoint": "--ckpt_path",
    "name": "--run",
    "run_name": "--run",
    "temperature": "--model.loss.init_args.temperature",
    "beta": "--schedule.init_args.start",
    "image_size": "--model.student.init_args.image_size",
    "img_size": "--model.student.init_args.image_size",
}
ROOMS = ("datamodules", "models", "losses", "callbacks")


@status_for_make()
def run_plainly(run: Callable[[list[str]], object]) -> None:
    """Run a command on the process's arguments, printing a user's mistake as one line instead of a traceback."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        run(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"error: {without_secrets(str(error))}", file=sys.stderr)
        sys.exit(2)


class PlainErrorParser(LightningArgumentParser):
    """The Lightning CLI's parser, which ends a user's mistake with one line on stderr and exit status 2.

    Half an option's name is refused as a typo, where argparse would take it for the option.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> list[str]:
        """Add a class's arguments; a logger writes into the run's folder unless it is told otherwise.

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

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit."""
        parser = getattr(ex, "subcommand_parser", None) or self
        line = _of_a_value(message, ex) or self._one_line(message, parser)
        sys.stderr.write(f"error: {without_secrets(line)}\n")
        sys.exit(2)

    def instantiate(self, *args: Any, **kwargs: Any) -> Any:
        """Build what a configuration describes.

        Raises:
            ValueError: A class refuses its settings; the message is its own, without the types that jsonargparse tried.
        """
        try:
            return super().instantiate(*args, **kwargs)
        except ValueError as error:
            if UNION not in str(error):
                raise
            raise ValueError(_reason(error)) from error

    def _one_line(self, message: str, parser: LightningArgumentParser) -> str:
        line = " ".join(part.strip() for part in message.splitlines() if part.strip())
        unknown = UNKNOWN.search(line)
        if unknown is None:
            setting = SETTING.search(line)
            return line if setting is None else _unknown_setting(setting["name"])
        key = unknown["keys"].split()[0].split("=")[0]
        close = _close_option(key, [name for name in parser._option_string_actions if name.startswith("--")])
        hint = f"did you mean {close}?" if close else f"the options: {_command(parser)} --help"
        return f"{key}: no such option; {hint}"


def _close_option(key: str, options: list[str]) -> str | None:
    """Return the option that was most likely meant: one of that name in another place, a synonym, or a typo.

    Args:
        key: The unknown option, such as ``--lr``.
        options: The parser's options.
    """
    word = key.lstrip("-").split(".")[-1].replace("-", "_").lower()
    settings = options
    if "--data" in options:  # whose settings are those of its class
        settings = [*options, *(f"--data.{name}" for name in _settings_of("datamodules"))]
    named = [option for option in settings if option.rpartition(".")[2].lstrip("-") == word]
    meant = SYNONYMS.get(word)
    if meant is not None and any(f"{meant}.".startswith(f"{option}.") for option in settings):
        named.insert(0, meant)
    if named:
        return named[0]
    # Without the dashes, which make short names alike.
    whole = {option.lstrip("-"): option for option in settings if not option.endswith("help")}
    ends = {name.rpartition(".")[2]: option for name, option in whole.items()}
    for given, known in ((key.lstrip("-"), whole), (word, ends)):
        for close in difflib.get_close_matches(given, known, n=1):
            return known[close]
    return None


def _command(parser: LightningArgumentParser) -> str:
    """Return what a person types before the options; argparse puts usage in brackets between its words."""
    if " -m " in parser.prog:
        return parser.prog
    words = [word for word in parser.prog.split() if word.isalpha()]
    return " ".join([".venv/bin/python -m experiments", *(words or ["fit"])])


def _of_a_value(message: str, error: Exception | None) -> str | None:
    """Explain a value that an option cannot take, or one that is not there; None for any other mistake."""
    missing = NO_VALUE.search(message)
    if missing is not None:
        option = _without_value(missing["options"].split("/")[0])
        return f"{option}: give a value, {option}=VALUE"
    key = KEY.search(message)
    if key is None or error is None:
        return None
    given, reason, value = _given(key["key"]), _reason(error), VALUE.search(str(error))
    if value is not None and "=" not in given and reason.startswith("expected"):
        reason = f"{reason}, not {value['value']}"
    return f"{given}: {reason}"


def _reason(error: BaseException) -> str:
    """Return the first meaningful line about a value: jsonargparse tells of every type that it tried."""
    text, cause = str(error), error.__cause__
    if (refusal := refused(error)) is not None:
        return refusal
    path = CLASS_PATH.match(text)
    if path is not None and isinstance(cause, ImportError | AttributeError):
        return f"{cause}{_close_class(path['path'])}"
    if EXPECTED.match(text) or (cause is not None and EXPECTED.match(str(cause))):
        return f"expected {_any_of([kind['kind'] for kind in EXPECTED.finditer(text)])}"
    if cause is not None and WRAPPER.search(text):
        return _reason(cause)
    return " ".join(KEY.sub("", text).split())


def _any_of(kinds: list[str]) -> str:
    """Join types as jsonargparse prints them: ``<class 'int'>``, ``typing.Literal['a', 'b']``."""
    words: list[str] = []
    for kind in kinds:
        if kind.startswith("typing.Literal"):
            words += [str(value) for value in ast.literal_eval(kind.removeprefix("typing.Literal"))]
        else:
            name = kind.removeprefix("<class '").removesuffix("'>").split(":")[0]
            words.append(
                {"NoneType": "null", "dot import path string": "the path of a class"}.get(name, name)
            )
    return " or ".join(dict.fromkeys(words))


def _close_class(path: str) -> str:
    known = [f"{room}.{name}" for room in ROOMS for name in importlib.import_module(room).__all__]
    close = difflib.get_close_matches(path, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _given(key: str) -> str:
    """Return the argument that sets a key, or the key where none or several may have set it."""
    given = [
        argument
        for argument in sys.argv[1:]
        if argument.startswith("--")
        and f".{argument[2:].split('=')[0]}".removesuffix(".class_path").endswith(f".{key}")
    ]
    return given[0] if len(given) == 1 else key


def _without_value(option: str) -> str:
    """Return the argument without a value: argparse names ``--data`` for a setting of the data, too."""
    following = [*sys.argv[2:], "--"]
    for argument, after in zip(sys.argv[1:], following, strict=False):
        if f"{argument}.".startswith(f"{option}.") and after.startswith("--"):
            return argument
    return option


def _unknown_setting(name: str) -> str:
    """Explain a key that the chosen class does not take."""
    given = next((argument for argument in sys.argv if name in argument), name).split("=")[0]
    known = {setting for room in ROOMS for setting in _settings_of(room)} - {name}
    meant = SYNONYMS.get(name, name)
    close = [meant] if meant != name else difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"did you mean {close[0]}?" if close else "see the class's arguments in its docstring"
    return f"{given}: {name} is no setting of the chosen class; {hint}"


def _settings_of(room: str) -> list[str]:
    """Return the names of the constructor arguments of a package's public classes."""
    module = importlib.import_module(room)
    classes = (getattr(module, public) for public in module.__all__)
    return sorted(
        {name for kind in classes if inspect.isclass(kind) for name in inspect.signature(kind).parameters}
    )
