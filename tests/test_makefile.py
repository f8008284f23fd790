"""The Makefile as a user meets it: unknown variables, values with blanks, and what a mistake looks like."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments.__main__ import COMMANDS
from experiments.recipe_files import experiment_choices
from tests.conftest import ROOT, make

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
BLANK = "/a folder/it's $${here}/x"  # make reads $$ as one dollar sign
READ = BLANK.replace("$$", "$")


def words(*arguments):
    """Return the words that a shell would read of the command that make would run."""
    done = make("-n", *arguments)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("EXPERIMENT=no-kd", "did you mean EXP=?"),
        ("exp=no-kd", "did you mean EXP=?"),
        ("SEED=1", "did you mean SEEDS=?"),
        ("CHECKPOINT=a.ckpt", "did you mean CKPT=?"),
        ("XYZZY=a b", 'options of a command go into ARGS="--option=value"'),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(given, hint):
    for options in ([], ["-n"]):
        done = make(*options, "train", given)
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert f"{given.split('=')[0]}=: no such variable; {hint}" in line


def test_every_variable_that_a_recipe_reads_may_be_given():
    read = set(re.findall(r"\$\(([A-Z][A-Z0-9_]+)\)", MAKEFILE)) | set(
        re.findall(r"(?:option|need),(?:\w+,)?([A-Z_]+)", MAKEFILE)
    )
    own = {
        "CURDIR",
        "DO",
        "FOLDERS",
        "GIVEN",
        "KNOWN",
        "MADE",
        "MAKECMDGOALS",
        "MAKEFILE_LIST",
        "MAKEFLAGS",
        "NEAREST",
    }
    own |= {"BOUNDED", "EDITABLE", "GET_UV", "PY", "READY", "ROOMS", "SHELL", "WANTED", "REFUSE_EMPTY"}
    for name in sorted((read - own) | {"HC18_ROOT", "PLANES_ROOT", "SHARDS"}):
        assert "no such variable" not in make("-n", "help", f"{name}=x").stderr, name


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", f"TEACHER={BLANK}"], [f"--teacher={READ}"]),
        (["train", f"STUDENT={BLANK}"], [f"--student={READ}"]),
        (["train", f"PROTOCOL={BLANK}"], [f"--protocol={READ}"]),
        (["reproduce", f"TEACHER={BLANK}"], [f"--teacher={READ}"]),
        (["evaluate", f"CKPT={BLANK}"], ["evaluate", "phantom", READ]),
        (["check-data", f"ROOT={BLANK}"], ["data", "check", "phantom", READ]),
        (["check-data", "DATA=table", f"TABLE={BLANK}"], ["data", "check", "table", READ]),
        (["check-data", "DATA=table-small", f"TABLE={BLANK}"], ["data", "check", "table", READ]),
        (["shards", f"ROOT={BLANK}", f"OUT={BLANK}"], ["data", "shards", READ, READ]),
        (["shards", f"TABLE={BLANK}", "OUT=x"], ["data", "shards", "x", f"--table={READ}"]),
        (["import-protocol", f"FROM={BLANK}", f"OUT={BLANK}"], ["import-protocol", READ, f"--out={READ}"]),
        (["sweep", f"SWEEP={BLANK}", f"SWEEP_NAME={BLANK}"], ["run", READ, f"--name={READ}"]),
        (["sweep", f"PROTOCOL={BLANK}"], [f"--protocol={READ}"]),
        (["sweep-report", f"SWEEP={BLANK}"], ["report", READ]),
        (["report", "RUN=a", f"OUT={BLANK}"], ["a", f"--out={READ}"]),
        (["export", f"CKPT={BLANK}", f"PROTOCOL={BLANK}"], [READ, f"--protocol={READ}"]),
        (["predict", f"CKPT={BLANK}", f"IMAGES={BLANK}", f"OUT={BLANK}"], [READ, READ, f"--out={READ}"]),
        (["latency", f"EXPORT={BLANK}"], [READ]),
        (["latency", f"CKPT={BLANK}"], [READ]),
        (["demo", f"EXPORT={BLANK}"], ["demo", READ]),
        (["train", "ARGS=--run='my run' --x"], ["--run=my run", "--x"]),
        (["sweep-agent", "ID=a/b/c", "JOBS=2"], ["agent", "a/b/c", "--jobs=2"]),
    ],
)
def test_a_path_with_blanks_is_one_word(arguments, expected):
    told = words(*arguments)
    assert [word for word in told if word in expected] == expected


@pytest.mark.parametrize(
    ("given", "model"), [([], ""), (["EXP=teacher"], "teacher"), (["CKPT=a.ckpt", "EXP=srkd"], "a.ckpt")]
)
def test_nothing_is_evaluated_by_default(given, model):
    assert words("evaluate", *given)[3:] == ["evaluate", "phantom", *model.split()]


@pytest.mark.parametrize(
    ("arguments", "lacking"),
    [
        (["check-data"], "check-data needs ROOT="),
        (["check-data", "DATA=table"], "check-data needs TABLE="),
        (["sweep-agent"], "sweep-agent needs ID="),
        (["add"], "add needs PACKAGE="),
        (["shards", "ROOT=/data"], "shards needs OUT="),
        (["import-protocol"], "import-protocol needs FROM="),
    ],
)
def test_a_target_names_what_it_lacks(arguments, lacking):
    assert lacking in make("-n", *arguments).stderr


def test_an_exported_table_is_neither_checked_nor_written_in_place_of_a_public_set(monkeypatch):
    monkeypatch.setenv("TABLE", "mine.csv")
    monkeypatch.setenv("IMAGES", "mine")
    for arguments in (["check-data", "DATA=hc18", "ROOT=/data"], ["shards", "ROOT=/data", "OUT=x"]):
        told = words(*arguments)
        assert "/data" in told
        assert not [word for word in told if "mine" in word]
    assert "mine.csv" in words("check-data", "DATA=table")


@pytest.mark.parametrize("target", ["add", "audit", "sbom", "lock"])
def test_a_target_that_calls_uv_fetches_it_where_it_is_missing(target):
    first = make("-n", target, "UV=nowhere/uv", "OUT=x", "PACKAGE=x").stdout.splitlines()[0]
    assert first.startswith('command -v "nowhere/uv"')
    assert first.endswith("pip install --quiet uv; }")


def test_the_environment_runs_this_clone_after_an_extra_of_it_was_installed():
    last = make("-n", "add", "PACKAGE=.[dicom]").stdout.splitlines()[-1]
    assert "--no-deps" in last
    assert "--editable ." in last


@pytest.mark.parametrize("variable", ["HC18_ROOT", "PLANES_ROOT", "SHARDS"])
def test_a_data_folder_with_blanks_reaches_the_command(variable):
    rule = f'show:\n\t+@echo "$${variable}"\n'
    done = make("-f", "Makefile", "-f", "-", "show", f"{variable}={BLANK}", input=rule)
    assert done.stdout == f"{READ}\n"


def test_runs_are_one_folder_or_a_list_as_a_shell_reads_it(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    assert words("report", f"RUN={folder}")[4:] == [str(folder)]
    assert words("report", f"RUN='{folder}' outputs/b")[4:] == [str(folder), "outputs/b"]
    assert words("report", "RUN=outputs/a outputs/b")[4:] == ["outputs/a", "outputs/b"]


def test_a_mistake_is_its_own_line_alone_and_the_exit_status_tells():
    done = make("check-data", "DATA=hc18", "ROOT=/no where", "PY=.venv/bin/python")
    assert "PY=: no such variable" in done.stderr
    done = make("sweep-agent", "ID=a/b/c", "COUNT=no number")
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: argument --count: must be a whole number above 0, not 'no number'")
    done = make("latency", "EXPORT=")
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "latency: EXPORT= is empty" in line


def test_every_line_of_a_recipe_runs_under_the_flag_that_silences_make():
    """Under -q make skips a line without the mark, and tells nobody."""
    joined = MAKEFILE.replace("\\\n", " ")
    recipes = [line for line in joined.splitlines() if line.startswith("\t")]
    assert len(recipes) > 20
    assert [line for line in recipes if "$(DO)" not in line] == []


def test_a_recipe_is_replaced_by_its_command_so_that_signals_reach_it(tmp_path):
    """A shell between make and the command would take make's SIGTERM for itself."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__main__.py").touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/bash\nreadlink "/proc/$PPID/exe"\n')
    python.chmod(0o755)
    if not Path("/proc/self/exe").exists():
        pytest.skip("no /proc")
    shutil.copy(ROOT / "Makefile", tmp_path)
    assert Path(make("table", cwd=tmp_path).stdout.strip()).name in ("make", "gmake")


def test_from_another_folder_make_says_where_to_run(tmp_path):
    done = make("-f", str(ROOT / "Makefile"), "train", "EXP=no-kd", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"run make in the repository: make -C '{ROOT}' train" in line
    assert list(tmp_path.iterdir()) == []
    assert words("-C", str(ROOT), "table")[1:] == ["-m", "experiments", "table", "phantom"]


def test_the_package_runs_from_another_folder_by_its_path(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    python = ROOT / ".venv" / "bin" / "python"
    if not python.exists():
        pytest.skip("no .venv")
    command = [python, ROOT / "experiments", "list"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "experiments (EXP=):" in done.stdout


FEATURES = re.findall(r"^\|[^|]+\| `([^`|]+)` \|", (ROOT / "docs" / "features.md").read_text(), re.MULTILINE)


def test_every_command_of_the_table_of_features_exists():
    assert len(FEATURES) > 25
    for command in FEATURES:
        assert {*re.findall(r"EXP=(\S+)", command)} <= {*experiment_choices()}, command
        program, *given = shlex.split(command)
        if program == "make":
            done = make("-n", *given)
            assert (done.returncode, done.stderr) == (0, ""), command
            given = shlex.split(done.stdout.splitlines()[-1])
            program, *given = given[given.index("experiments") :] if "experiments" in given else [""]
        if program in ("experiments", ".venv/bin/sonodistill"):
            assert given[0] in COMMANDS, command
