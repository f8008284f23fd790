"""Suites of runs: resuming, failures and interruptions, with a stub in place of training."""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from datamodules.evaluation.protocol import DEFAULT_PROTOCOL, Protocol
from experiments.commands.results import reproduce as main
from experiments.paper import PAPER, STUDENTS, SUITES, TEACHER_IMAGE_PARAMETERS, TITLES
from experiments.recipe_files import experiment_names, preset_file, student_file, teacher_towers
from experiments.suites.suite_runs import SuiteRun, parse_seeds
from models import TimmEncoder
from models.cost import image_cost

# Stub of `python -m experiments`, which looks in the current folder first.
QUICK_TRAINING = """
import json, os, pathlib, signal, sys, time
command, experiment, preset = sys.argv[1:4]
options = dict(argument.split("=", 1) for argument in sys.argv[4:])
folder = pathlib.Path("outputs") / experiment / options["--run"]
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
with open("calls.jsonl", "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
behaviour = os.environ.get(experiment.upper().replace("-", "_"), "")
if behaviour == "fail":
    sys.exit(2)
if behaviour == "stop":
    (folder / "checkpoints" / "last.ckpt").write_text("half way")
    sys.exit(130)  # as a training after Ctrl-C
if behaviour == "wait":
    def save(*_):
        (folder / "checkpoints" / "last.ckpt").write_text("half way")
        sys.exit(143)
    signal.signal(signal.SIGTERM, save)
    (folder / "waiting.partial").write_text(str(os.getpid()))
    (folder / "waiting.partial").rename(folder / "waiting")
    time.sleep(60)
(folder / "results.json").write_text("{}")
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").touch()  # a regular package: comes before the installed one
    (tmp_path / "experiments" / "__main__.py").write_text(QUICK_TRAINING)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def srkd_alone(monkeypatch):
    """A main suite of one experiment, where it does not matter which others run."""
    monkeypatch.setitem(SUITES, "main", ("srkd",))


def calls(folder):
    path = folder / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_experiment_runs_once_per_seed(workplace, capfd):
    assert main(["main", "phantom", "--seeds=1,2", "--trainer.max_epochs=1"]) == 0
    made = calls(workplace)
    assert [(call[1], call[4]) for call in made] == [
        (name, f"--seed_everything={seed}") for seed in (1, 2) for name in SUITES["main"]
    ]
    assert all(call[0] == "train" and call[2] == "phantom" for call in made)
    assert all("--trainer.max_epochs=1" in call for call in made)
    assert all(f"--data.init_args.seed={call[4][-1]}" in call for call in made)
    assert len({tuple(call) for call in made}) == 8
    assert main(["main", "phantom", "--seeds=1,2", "--trainer.max_epochs=1"]) == 0
    assert len(calls(workplace)) == 8, "finished runs are skipped"
    assert "finished before, skipped" in capfd.readouterr().out


def test_one_failed_run_does_not_stop_the_rest(workplace, monkeypatch, capfd):
    monkeypatch.setenv("STATIC_KD", "fail")
    assert main(["main", "phantom", "--seeds=5"]) == 1
    assert [call[1] for call in calls(workplace)] == list(SUITES["main"])
    output = capfd.readouterr()
    assert "1 of 4 runs are not finished" in output.err
    monkeypatch.delenv("STATIC_KD")
    assert main(["main", "phantom", "--seeds=5"]) == 0
    assert [call[1] for call in calls(workplace)][4:] == ["static-kd"], "only the failed run"


@pytest.mark.usefixtures("srkd_alone")
def test_an_interrupted_run_resumes_from_its_last_checkpoint(workplace, monkeypatch, capfd):
    monkeypatch.setenv("SRKD", "stop")
    assert main(["main", "phantom", "--seeds=1"]) == 1
    assert "interrupted outputs/srkd/reproduce-phantom-s1" in capfd.readouterr().out
    monkeypatch.delenv("SRKD")
    assert main(["main", "phantom", "--seeds=1"]) == 0
    _, again = calls(workplace)
    assert f"--ckpt_path={Path('outputs/srkd/reproduce-phantom-s1/checkpoints/last.ckpt')}" in again


@pytest.mark.usefixtures("srkd_alone")
def test_a_folder_with_other_arguments_is_rejected(workplace):
    assert main(["main", "phantom", "--seeds=1", "--trainer.max_epochs=1"]) == 0
    with pytest.raises(ValueError, match=r"other arguments \(--trainer.max_epochs=1\)"):
        main(["main", "phantom", "--seeds=2,1"])
    assert not (workplace / "outputs/srkd/reproduce-phantom-s2").exists(), "a refused suite claims no folder"


@pytest.mark.usefixtures("srkd_alone")
def test_a_folder_with_other_weights_at_the_same_path_is_rejected(workplace):
    weights = workplace / "weights.pt"
    weights.write_bytes(b"one")
    command = ["main", "phantom", "--seeds=1", f"--teacher={weights}"]
    assert main(command) == 0
    request = json.loads((workplace / "outputs/srkd/reproduce-phantom-s1/request.json").read_text())
    assert request["digests"] == {"--teacher": hashlib.sha256(b"one").hexdigest()[:16]}
    assert main(command) == 0, "the same weights"
    weights.write_bytes(b"two")
    changed = (
        r"other contents of --teacher \(digest [0-9a-f]{16}, now [0-9a-f]{16}\); .* move the folder away"
    )
    with pytest.raises(ValueError, match=changed):
        main(command)


@pytest.mark.usefixtures("srkd_alone")
def test_a_folder_with_another_kept_teacher_is_rejected(workplace, tiny_hc18, monkeypatch):
    monkeypatch.setenv("HC18_ROOT", str(tiny_hc18))
    kept = workplace / "outputs" / "teachers" / "hc18.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"one")
    command = ["main", "hc18", "--seeds=1"]
    assert main(command) == 0
    request = json.loads((workplace / "outputs/srkd/reproduce-hc18-s1/request.json").read_text())
    assert request["digests"]["--teacher"] == hashlib.sha256(b"one").hexdigest()[:16]
    kept.write_bytes(b"trained again")
    with pytest.raises(ValueError, match=r"other contents of --teacher \(digest"):
        main(command)


@pytest.mark.usefixtures("srkd_alone")
@pytest.mark.parametrize(("name", "content"), [("results.json", "{bad"), ("request.json", "[]")])
def test_a_damaged_file_of_a_run_is_named(workplace, name, content):
    command = ["main", "phantom", "--seeds=1"]
    assert main(command) == 0
    (workplace / "outputs/srkd/reproduce-phantom-s1" / name).write_text(content)
    with pytest.raises(ValueError, match=rf"srkd/reproduce-phantom-s1/{name}: damaged \([^\n]*$"):
        main(command)


@pytest.mark.usefixtures("srkd_alone")
def test_a_folder_with_other_prompts_at_the_same_path_is_rejected(workplace):
    protocol = workplace / "protocol.json"
    protocol.write_text(DEFAULT_PROTOCOL.read_text())
    command = ["main", "phantom", "--seeds=1", f"--protocol={protocol}"]
    assert main(command) == 0
    protocol.write_text(json.dumps(json.loads(protocol.read_text()), indent=7))
    assert main(command) == 0, "the same prompts in another layout"
    protocol.write_text(protocol.read_text().replace("weeks}", "weeks} whole", 1))
    before, now = Protocol.load(DEFAULT_PROTOCOL).digest, Protocol.load(protocol).digest
    with pytest.raises(ValueError, match=rf"other contents of --protocol \(digest {before}, now {now}\); "):
        main(command)


@pytest.mark.usefixtures("srkd_alone")
def test_a_folder_with_other_data_is_rejected(workplace, tiny_hc18, monkeypatch):
    monkeypatch.setenv("HC18_ROOT", str(tiny_hc18))
    command = ["main", "hc18", "--seeds=1"]
    assert main(command) == 0
    monkeypatch.setenv("HC18_ROOT", str(tiny_hc18.rename(workplace / "elsewhere")))
    assert main(command) == 0, "the same data in another folder"
    assert len(calls(workplace)) == len(SUITES["main"])
    table = workplace / "elsewhere" / "training_set_pixel_size_and_HC.csv"
    table.write_text(table.read_text().replace("80.0", "81.0"))
    changed = (
        r"other contents of HC18_ROOT \(digest [0-9a-f]{16}, now [0-9a-f]{16}\); restore the former files or"
    )
    with pytest.raises(ValueError, match=changed) as caught:
        main(command)
    assert "\n" not in str(caught.value)
    table.unlink()
    with pytest.raises(FileNotFoundError, match=r"HC18: .*elsewhere holds no training_set.*HC18_ROOT=folder"):
        main(command)


def test_missing_weights_are_rejected_before_anything_runs(workplace):
    with pytest.raises(FileNotFoundError, match=r"TEACHER=nowhere\.pt: no such file"):
        main(["main", "phantom", "--seeds=1", "--teacher=nowhere.pt"])
    assert calls(workplace) == []
    assert not (workplace / "outputs").exists()


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)  # SIGINT reaches the whole group, as from a terminal
def test_an_interruption_waits_for_the_run_to_save(workplace, monkeypatch, sent, status):
    monkeypatch.setenv("STATIC_KD", "wait")
    waiting = workplace / "outputs" / "static-kd" / "reproduce-phantom-s1" / "waiting"

    def interrupt():
        deadline = time.monotonic() + 50
        while not waiting.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), sent)
        if sent == signal.SIGINT:  # the terminal's part
            os.kill(int(waiting.read_text()), signal.SIGTERM)

    # A shell starts its background jobs with SIGINT ignored; the test is about jobs in the foreground.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert main(["main", "phantom", "--seeds=1"]) == status
    finally:
        thread.join()
        signal.signal(signal.SIGINT, inherited)
    assert (waiting.parent / "checkpoints" / "last.ckpt").exists()
    assert [call[1] for call in calls(workplace)] == ["no-kd", "static-kd"], "nothing is started afterwards"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_typo_is_rejected_before_anything_runs(workplace, capsys):
    with pytest.raises(ValueError, match="did you mean phantom"):
        main(["main", "phantm"])
    with pytest.raises(SystemExit):
        main(["mian", "phantom"])
    assert "main" in capsys.readouterr().err
    assert calls(workplace) == []


@pytest.mark.parametrize("text", ["1,,2", "one", "1,1", "-1,2"])
def test_seeds_must_be_different_numbers(text):
    with pytest.raises(ValueError, match=f"SEEDS={text}"):
        parse_seeds(text)


def test_suites_name_experiments_that_exist():
    for names in SUITES.values():
        assert set(names) <= set(experiment_names())
        assert len(set(names)) == len(names)
    assert set(SUITES["main"]) | {"teacher"} == set(PAPER)
    assert {name for names in SUITES.values() for name in names} | {"teacher", "random"} == set(TITLES)


def test_the_command_is_that_of_make_train():
    command = SuiteRun("srkd", "hc18", 7, ("--trainer.max_epochs=2",)).command()
    assert command[:6] == [sys.executable, "-m", "experiments", "train", "srkd", "hc18"]
    assert "--run=reproduce-hc18-s7" in command


@pytest.mark.parametrize(
    "option",
    [
        "--score_test_patients=false", "--experiment=x", "--run=x", "--seed_everything=3", "--ckpt_path=x",
        "--data.seed=3", "--data.init_args.seed=3", "--trainer.fast_dev_run=true", "--quick=true",
    ],
)  # fmt: skip
def test_an_option_set_by_the_suite_is_rejected(workplace, option):
    with pytest.raises(
        ValueError, match=rf"^{option.partition('=')[0]}: make reproduce sets .*; leave it out$"
    ):
        main(["main", "phantom", "--seeds=1", option])
    assert calls(workplace) == []
    assert not (workplace / "outputs").exists()


def test_a_config_file_cannot_override_the_suites_options():
    command = SuiteRun("srkd", "hc18", 7, ("--config=mine.yaml",)).command()
    own = ["--experiment=srkd", "--seed_everything=7", "--data.init_args.seed=7", "--run=reproduce-hc18-s7"]
    own += ["--score_test_patients=true", "--quick=false"]
    assert all(command.index(option) > command.index("--config=mine.yaml") for option in own)


def test_the_capacity_suite_trains_every_method_with_every_student(workplace, capfd):
    assert main(["capacity", "phantom", "--seeds=1"]) == 0
    made = calls(workplace)
    assert len(made) == 12
    for student, folder in (("fifth", "phantom-fifth-s1"), ("hundredth", "phantom-hundredth-s1")):
        own = [call for call in made if f"--run=reproduce-{folder}" in call]
        assert [call[1] for call in own] == list(SUITES["main"])
        assert all(call[3].endswith(f"recipes/students/{student}.yaml") for call in own)
        request = json.loads((workplace / f"outputs/srkd/reproduce-{folder}/request.json").read_text())
        assert request["student"] == student
    assert main(["main", "phantom", "--seeds=1"]) == 0
    assert len(calls(workplace)) == 12, "the preset's own student is that of the main suite"
    with pytest.raises(ValueError, match="DATA=phantom or DATA=hc18"):
        main(["capacity", "planes", "--seeds=1"])


@pytest.mark.parametrize("student", STUDENTS)
def test_students_of_the_capacity_suite_have_the_stated_size(student):
    config = yaml.safe_load((student_file(student) if student else preset_file("phantom")).read_text())
    settings = config["model"]["student"]["init_args"]
    assert image_cost(TimmEncoder(**settings).eval()).image_parameters == STUDENTS[student]


def test_the_teachers_stated_size():
    settings = yaml.safe_load(teacher_towers("phantom").read_text())["model"]["student"]["init_args"]
    assert image_cost(TimmEncoder(**settings).eval()).image_parameters == TEACHER_IMAGE_PARAMETERS
