"""Suites of runs: resumption, failures, interruptions; each run is a process of its own, here a quick one."""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from datamodules.protocol import DEFAULT_PROTOCOL, Protocol
from experiments.recipes import experiment_names
from experiments.reproduce import Run, main, parse_seeds
from experiments.suites import PAPER, SUITES, TITLES

ROOT = Path(__file__).resolve().parents[2]

# Stands where `python -m experiments` looks first: the current folder.
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
    sys.exit(0)
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
    (tmp_path / "experiments" / "__main__.py").write_text(QUICK_TRAINING)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calls(folder):
    path = folder / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_experiment_runs_once_a_seed_and_never_again(workplace, capfd):
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
    assert [call[1] for call in calls(workplace)][4:] == ["static-kd"], "only what is lacking"


def test_an_interrupted_run_goes_on_from_its_last_checkpoint(workplace, monkeypatch):
    monkeypatch.setenv("SRKD", "stop")
    assert main(["main", "phantom", "--seeds=1"]) == 1
    monkeypatch.delenv("SRKD")
    assert main(["main", "phantom", "--seeds=1"]) == 0
    (again,) = calls(workplace)[4:]
    assert f"--ckpt_path={Path('outputs/srkd/reproduce-phantom-s1/checkpoints/last.ckpt')}" in again


def test_results_of_other_settings_are_not_mistaken_for_these(workplace):
    assert main(["main", "phantom", "--seeds=1", "--trainer.max_epochs=1"]) == 0
    with pytest.raises(ValueError, match=r"other arguments \(--trainer.max_epochs=1\)"):
        main(["main", "phantom", "--seeds=1"])


def test_results_of_other_weights_at_the_same_path_are_not_mistaken_for_these(workplace):
    weights = workplace / "weights.pt"
    weights.write_bytes(b"one")
    command = ["main", "phantom", "--seeds=1", f"--teacher={weights}"]
    assert main(command) == 0
    request = json.loads((workplace / "outputs/srkd/reproduce-phantom-s1/request.json").read_text())
    assert request["digests"] == {"--teacher": hashlib.sha256(b"one").hexdigest()[:16]}
    assert main(command) == 0, "the same weights: finished before"
    weights.write_bytes(b"two")
    changed = "what --teacher names had the digest [0-9a-f]{16} and has [0-9a-f]{16}; .* move the folder away"
    with pytest.raises(ValueError, match=changed):
        main(command)


def test_results_of_other_prompts_at_the_same_path_are_not_mistaken_for_these(workplace):
    protocol = workplace / "protocol.json"
    protocol.write_text(DEFAULT_PROTOCOL.read_text())
    command = ["main", "phantom", "--seeds=1", f"--protocol={protocol}"]
    assert main(command) == 0
    protocol.write_text(json.dumps(json.loads(protocol.read_text()), indent=7))
    assert main(command) == 0, "the same prompts, printed otherwise"
    protocol.write_text(protocol.read_text().replace("weeks}", "weeks} whole", 1))
    before, now = Protocol.load(DEFAULT_PROTOCOL).digest, Protocol.load(protocol).digest
    with pytest.raises(ValueError, match=f"what --protocol names had the digest {before} and has {now}; "):
        main(command)


def test_results_of_other_data_are_not_mistaken_for_these(workplace, tiny_hc18, monkeypatch):
    monkeypatch.setenv("HC18_ROOT", str(tiny_hc18))
    command = ["main", "hc18", "--seeds=1"]
    assert main(command) == 0
    monkeypatch.setenv("HC18_ROOT", str(tiny_hc18.rename(workplace / "elsewhere")))
    assert main(command) == 0, "the same data in another folder: finished before"
    assert len(calls(workplace)) == len(SUITES["main"])
    table = workplace / "elsewhere" / "training_set_pixel_size_and_HC.csv"
    table.write_text(table.read_text().replace("80.0", "81.0"))
    changed = (
        "what HC18_ROOT names had the digest [0-9a-f]{16} and has [0-9a-f]{16}; name the former again, or"
    )
    with pytest.raises(ValueError, match=changed) as caught:
        main(command)
    assert "\n" not in str(caught.value)
    table.unlink()
    with pytest.raises(FileNotFoundError, match=r"HC18: .*elsewhere holds no training_set.*HC18_ROOT=folder"):
        main(command)


def test_runs_of_earlier_versions_go_on(workplace):
    weights = workplace / "weights.pt"
    weights.write_bytes(b"one")
    folder = workplace / "outputs" / "srkd" / "reproduce-phantom-s1"
    folder.mkdir(parents=True)
    before = json.dumps({"arguments": [f"--teacher={weights}"]})
    (folder / "request.json").write_text(before)
    assert main(["main", "phantom", "--seeds=1", f"--teacher={weights}"]) == 0
    assert (folder / "request.json").read_text() == before, "what it began with is not known"


def test_missing_weights_show_before_anything_runs(workplace):
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


def test_a_typo_shows_before_anything_runs(workplace, capsys):
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
    assert set(SUITES["ablation"]) | {"teacher", "random"} == set(TITLES)


def test_command_is_that_of_make_train():
    command = Run("srkd", "hc18", 7, ("--trainer.max_epochs=2",)).command()
    assert command[:6] == [sys.executable, "-m", "experiments", "train", "srkd", "hc18"]
    assert "--run=reproduce-hc18-s7" in command


@pytest.mark.parametrize("option", ["--score_test_patients=false", "--run=x", "--seed_everything=3"])
def test_an_option_that_is_the_suites_own_is_refused_before_anything_runs(workplace, option):
    with pytest.raises(
        ValueError, match=rf"^{option.partition('=')[0]}: make reproduce sets .*; leave it out$"
    ):
        main(["main", "phantom", "--seeds=1", option])
    assert calls(workplace) == []
    assert not (workplace / "outputs").exists()


def test_a_file_among_the_arguments_cannot_undo_what_the_suite_sets():
    command = Run("srkd", "hc18", 7, ("--config=mine.yaml",)).command()
    own = ["--seed_everything=7", "--run=reproduce-hc18-s7", "--score_test_patients=true"]
    assert all(command.index(option) > command.index("--config=mine.yaml") for option in own)
