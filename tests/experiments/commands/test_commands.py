"""The commands beside training, through the one entry point, and the make targets in front of them."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from torch.utils.data import Dataset

from datamodules.pairs.loaders import PlainErrorLoader
from datamodules.shards.pair_shards import PairShardsDataModule
from experiments import __main__ as command_line
from experiments.__main__ import COMMANDS, LIGHTNING
from experiments.commands import export, latency
from experiments.plain_errors import PlainErrorParser
from experiments.process import wrapped
from tests.conftest import ROOT, make

SETUP = ("TORCH_BACKEND", "PYTHON_VERSION", "MAKEFLAGS", "MAKEOVERRIDES")


def command(monkeypatch, *arguments):
    """Run one command line as a shell would, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["experiments", *map(str, arguments)])
    try:
        command_line.main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_check_data_tells_by_its_exit_code(monkeypatch, tiny_planes, capsys):
    assert command(monkeypatch, "data", "check", "planes", tiny_planes, "--workers=1") == 0
    assert "12400" in capsys.readouterr().out.replace(",", ""), "the published count is named"
    next((tiny_planes / "Images").glob("*.png")).write_bytes(b"not an image")
    assert command(monkeypatch, "data", "check", "planes", tiny_planes, "--workers=1") == 1


def test_a_user_error_is_one_line(monkeypatch, tmp_path, capsys):
    assert command(monkeypatch, "data", "check", "planes", tmp_path / "nowhere") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "PLANES_ROOT=folder" in error
    assert len(error.strip().splitlines()) == 1


class Deadly(Dataset):
    """Its third image takes the process that reads it."""

    def __len__(self):
        return 9

    def __getitem__(self, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


@pytest.mark.faults
def test_a_killed_data_worker_is_one_line(monkeypatch, capfd):
    monkeypatch.setattr(command_line, "run", lambda _: list(PlainErrorLoader(Deadly(), num_workers=1)))
    assert command(monkeypatch, "train", "srkd", "phantom") == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line]
    assert line.startswith("error: a data worker has ended; if memory was short, lower --data.num_workers")
    assert line.endswith(
        "resume from the last checkpoint with --ckpt_path=outputs/EXP/RUN/checkpoints/last.ckpt"
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["data", "frobnicate"], "'frobnicate'"),
        (["reproduce", "everything", "phantom"], "'everything'"),
        (["sweep", "run", "decay", "--count=0"], "--count"),
        (["sweep", "run", "decay", "--count", "-2"], "--count"),
        (["table"], "data"),
    ],
)
def test_a_wrong_argument_is_one_line(monkeypatch, capsys, arguments, named):
    assert command(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line


def test_a_package_of_an_extra_is_named_with_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in [name for name in sys.modules if name.startswith("experiments.sweep")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert command(monkeypatch, "sweep", "report", "decay") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: optuna is not installed: pip install '.[sweep]'")


def test_an_installation_says_where_the_benchmarks_are(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command_line, "__file__", str(tmp_path / "experiments" / "__main__.py"))
    assert command(monkeypatch, "bench") == 2
    assert "run make bench in the repository" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", ["--help", "list"])
def test_a_reader_may_leave_early(arguments):
    shell = f"{sys.executable} -m experiments {arguments} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141"), "0 where all was written before the reader ended"


@pytest.mark.parametrize("folder", ["empty", "nowhere"])
def test_missing_shards_say_what_writes_them(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"1 of 1 shard missing.*SHARDS=.*make shards"):
        PairShardsDataModule(str(tmp_path / folder)).read_records()


HELP = """
import sys
from experiments.__main__ import run
for name in sys.argv[1:]:
    print("command", name, flush=True)
    assert not run([name, "--help"])
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("words", [["hub", "push"], ["sweep", "run"]])
def test_a_subcommand_explains_itself_as_its_command_does(words, capsys):
    assert command_line.run([*words, "--help"]) == 0
    own = capsys.readouterr().out
    assert command_line.run([words[0], "--help"]) == 0
    assert own == capsys.readouterr().out
    assert f"usage: sonodistill {' '.join(words)}" in own


def test_every_command_explains_itself_on_one_screen_without_pytorch():
    names = sorted({*COMMANDS} - {*LIGHTNING, "list"})
    command, environment = [sys.executable, "-c", HELP, *names], {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _, *texts = re.split(r"^command ", done.stdout, flags=re.MULTILINE)
    assert [text.split()[0] for text in texts] == names
    for text in texts:
        assert "usage:" in text
        assert len(text.splitlines()) <= 41, "with its name"
        assert max(map(len, text.splitlines())) <= 80


HELP_TEXT = """Ask a student about images,
and write a table.

usage: student ask CKPT IMAGES [--first=VALUE] [--second=VALUE]
       student list FOLDER

  --first=VALUE  the first of two settings, whose text is long
  --quiet"""
WRAPPED = """Ask a student about images, and write a
table.

usage: student ask CKPT IMAGES
           [--first=VALUE]
           [--second=VALUE]
       student list FOLDER

  --first=VALUE  the first of two
                 settings, whose text is
                 long
  --quiet"""


def test_a_help_text_fits_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert wrapped(HELP_TEXT) == WRAPPED
    monkeypatch.setenv("COLUMNS", "120")
    assert wrapped(HELP_TEXT) == HELP_TEXT.replace("images,\nand", "images, and")


def test_the_list_of_commands_and_the_settings_of_a_run_fit_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = PlainErrorParser(prog=".venv/bin/python -m experiments fit [options]")
    group = parser.add_argument_group("A corpus. " * 9)
    for name in ("reload_dataloaders_every_n_epochs", "accumulate_grad_batches"):
        group.add_argument(f"--trainer.{name}", type=int | None)
    for text in (command_line.usage(), parser.format_help()):
        assert max(map(len, text.splitlines())) <= 80
        assert len(text) > 300


@pytest.mark.parametrize("module", [export, latency])
def test_the_options_of_the_help_exist(module, monkeypatch):
    parsers = []

    def stop(parser, *_):
        parsers.append(parser)
        raise StopIteration

    monkeypatch.setattr(module.PlainErrorParser, "parse_args", stop)
    with pytest.raises(StopIteration):
        module.main(["random:MobileCLIP2-S0"])
    told = re.findall(r"^  (--[\w]+)", module.__doc__, re.MULTILINE)
    assert set(told) <= {*parsers[0]._option_string_actions}
    own = {option for option in parsers[0]._option_string_actions if re.fullmatch(r"--\w+", option)}
    assert own - set(told) <= {"--help", "--data", "--print_shtab", "--checkpoint"}


@pytest.mark.parametrize(
    ("own", "expected"), [({}, "0 8000000000"), ({"MALLOC_MMAP_MAX_": "9"}, "9 8000000000")]
)
def test_make_keeps_freed_memory_unless_the_environment_says_otherwise(own, expected):
    rule = "show:\n\t+@echo $$MALLOC_MMAP_MAX_ $$MALLOC_TRIM_THRESHOLD_\n"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = make("-s", "-f", "Makefile", "-f", "-", "show", env=clean | own, input=rule)
    assert done.stdout.strip() == expected


@pytest.fixture
def checkout(tmp_path):
    """A folder whose .venv make takes for ready; say what it was made with, and read what make would do."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__main__.py").touch()
    environment = {key: value for key, value in os.environ.items() if key not in SETUP}

    def dry_run(made_with, *arguments):
        (tmp_path / ".venv" / ".ready").write_text(made_with)
        command = ["make", "-n", "train", *arguments]  # which looks at .ready itself
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    return dry_run


def test_setup_is_kept_until_another_one_is_asked_for(checkout):
    cpu = "python=3.11 torch=cpu\n"
    for given in ([], ["TORCH_BACKEND=cpu"], ["PYTHON_VERSION=3.11"]):
        assert "venv --quiet" not in checkout(cpu, *given)
    assert "venv --quiet" not in checkout(""), "an older checkout's mark says nothing"
    other = checkout(cpu, "PYTHON_VERSION=3.12")
    assert "--python 3.12 .venv" in other
    assert "--torch-backend=cpu" in other, "what is not given anew stays"
    assert 'echo "python=3.12 torch=cpu" > .venv/.ready' in other
    assert "--torch-backend=cu128" in checkout(cpu, "TORCH_BACKEND=cu128")
    assert "--torch-backend=cpu" in checkout("", "TORCH_BACKEND=cpu")
    assert "--torch-backend" not in checkout(cpu, "TORCH_BACKEND=")


def test_too_little_memory_is_one_line(monkeypatch, capfd):
    monkeypatch.setattr(command_line, "run", lambda _: torch.empty(2**55))
    assert command(monkeypatch, "train", "srkd", "phantom") == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line]
    assert line.endswith("; lower --data.batch_size, or set --model.grad_cache_chunk (docs/scale.md)")
