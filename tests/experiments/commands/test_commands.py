"""The commands beside training, through the one entry point, and the make targets in front of them."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import Dataset

from datamodules.pairs.loaders import PlainErrorLoader
from datamodules.shards.pair_shards import PairShardsDataModule
from experiments import __main__ as command_line
from experiments.__main__ import COMMANDS, LIGHTNING
from experiments.commands import export, latency

ROOT = Path(__file__).resolve().parents[3]
SETUP = ("TORCH_BACKEND", "PYTHON_VERSION", "MAKEFLAGS", "MAKEOVERRIDES")


def command(monkeypatch, *arguments):
    """Run one command line as a shell would, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["experiments", *map(str, arguments)])
    try:
        command_line.main()
    except SystemExit as stop:
        return stop.code
    return 0


def make(*arguments):
    """Return the commands that make would run."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr + " ".join(shlex.split(done.stdout))


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
        (["table"], "data"),
    ],
)
def test_a_wrong_argument_is_one_line(monkeypatch, capsys, arguments, named):
    assert command(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line


@pytest.mark.parametrize("arguments", ["--help", "list"])
def test_a_reader_may_leave_early(arguments):
    shell = f"{sys.executable} -m experiments {arguments} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141"), "0 where all was written before the reader ended"


def test_shards_of_the_public_sets_are_read_by_their_folder(monkeypatch, tiny_planes, tiny_hc18, tmp_path):
    target = tmp_path / "shards"
    assert command(monkeypatch, "data", "shards", tiny_planes.parent, target, "--samples-per-shard=20") == 0
    manifest = json.loads((target / "manifest.json").read_text())
    data = PairShardsDataModule(str(target))
    assert [Path(url).name for url in data.urls] == [shard["name"] for shard in manifest["shards"]]
    assert len(data.urls) > 1
    data.read_records()


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


def test_every_command_explains_itself_on_one_screen_without_pytorch():
    names = sorted({*COMMANDS} - {*LIGHTNING, "list"})
    command = [sys.executable, "-c", HELP, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _, *texts = re.split(r"^command ", done.stdout, flags=re.MULTILINE)
    assert [text.split()[0] for text in texts] == names
    for text in texts:
        assert "usage:" in text
        assert len(text.splitlines()) <= 41, "with its name"


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
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    rule = "show:\n\t+@echo $$MALLOC_MMAP_MAX_ $$MALLOC_TRIM_THRESHOLD_\n"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        ["make", "-s", "-f", "Makefile", "-f", "-", "show"],
        cwd=ROOT, env=clean | own, input=rule, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == expected


def test_make_hands_weights_and_prompts_on():
    given = ["TEACHER=t.pt", "STUDENT=s.pt", "PROTOCOL=p.json", "ARGS=--trainer.max_epochs=1"]
    spelt = "--teacher=t.pt --student=s.pt --protocol=p.json --trainer.max_epochs=1"
    assert f"experiments train srkd planes {spelt}" in make("train", "DATA=planes", *given)
    assert f"experiments evaluate hc18 x.ckpt {spelt}" in make("evaluate", "DATA=hc18", "CKPT=x.ckpt", *given)
    reproduce = make("reproduce", "SUITE=ablation", "SEEDS=4,5", "DATA=shards", *given)
    assert f"experiments reproduce ablation shards --seeds=4,5 {spelt}" in reproduce
    assert "--protocol=p.json" in make("export", "CKPT=x.ckpt", *given)


def test_make_targets_of_corpora_and_table():
    assert "experiments data check hc18 /data/HC18" in make("check-data", "DATA=hc18", "ROOT=/data/HC18")
    assert "experiments data shards /data /out" in make("shards", "ROOT=/data", "OUT=/out")
    assert "experiments import-protocol /clone --out=p.json" in make(
        "import-protocol", "FROM=/clone", "OUT=p.json"
    )
    assert "experiments table phantom" in make("table")
    assert "check-data needs ROOT=" in make("check-data")
    assert "sweep-agent needs ID=" in make("sweep-agent")
    assert "experiments sweep agent a/b/c --jobs=2" in make("sweep-agent", "ID=a/b/c", "JOBS=2")
    assert "shards needs OUT=" in make("shards", "ROOT=/data")
    assert "import-protocol needs FROM=" in make("import-protocol")


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
        command = ["make", "-n", "train", *arguments]
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
