"""Kill -9 of commands that write data or run a sweep; the repeated command ends with what an unbroken one writes."""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import webdataset
import yaml
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study

from datamodules.ingest import archive
from datamodules.shards import writer
from experiments import __main__ as front_door
from experiments.runs.run_folder import RUN_VARIABLE
from experiments.sweep import local_runner
from experiments.sweep.local_study import load
from experiments.sweep.trial_process import TrialProcess
from models.files import sha256
from tests.dicom_archive import write_archive
from tests.kills import RandomKills, die, in_child, seconds_of, wrap

pytestmark = [pytest.mark.slow, pytest.mark.faults]
TRIAL = Path(__file__).parents[1] / "sweep" / "tiny_trial.py"


def command(folder, *words, moment=lambda: None):
    """Return the task of a command in a folder, in a process that will die at a moment."""

    def task():
        os.chdir(folder)
        local_runner.POLL_S = 0.02
        moment()
        sys.argv = ["experiments", *map(str, words)]
        front_door.main()

    return task


def digests(folder):
    """Return the SHA-256 of every file by name, hidden ones included."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def replacing(*numbers):
    """Return moments before and after a file is renamed to its final name."""
    return {
        f"{'after' if after else 'before'} renaming file {number}": partial(
            wrap, Path, "replace", number, after
        )
        for number in numbers
        for after in (False, True)
    }


def check_kills(tmp_path, run, moments, randomly):
    """Kill a command at each moment, and at random ones; what its repetition leaves is what an unbroken one does.

    `run` returns the task that writes into a folder, given the folder and what to do before.
    """
    kill, right = RandomKills(seconds_of(run(tmp_path / "whole"))), digests(tmp_path / "whole")
    assert right
    for name, moment in moments.items():
        out = tmp_path / name.replace(" ", "-")
        assert in_child(run(out, moment=moment)), f"{name}: the moment comes"
        assert not in_child(run(out)), name
        assert digests(out) == right, name
    for number in range(randomly):
        out = tmp_path / f"random-{number}"
        kill(run(out))
        assert not in_child(run(out))
        assert digests(out) == right, f"random kill {number}"
    print(f"{kill.killed} of {randomly} random kills before the end", file=sys.stderr)
    assert kill.killed


def test_killed_while_shards_are_written(tiny_hc18, tiny_planes, tmp_path):
    def run(out, **moment):
        words = ["data", "shards", tiny_hc18.parent, out, "--samples-per-shard=20", "--workers=1"]
        return command(tmp_path, *words, **moment)

    moments = replacing(1, 2, 3) | {
        "in the second shard": partial(wrap, webdataset.TarWriter, "write", 30, after=True),
        "before the digest of the second shard": partial(wrap, writer, "sha256", 2, after=False),
    }
    check_kills(tmp_path, run, moments, randomly=5)


@pytest.fixture
def ingest(tmp_path):
    """Return the task of ingesting an archive into a folder."""
    root, secret = tmp_path / "archive", tmp_path / "secret"
    write_archive(root, patients=2)
    secret.write_text("a secret of twenty-eight signs")

    def run(out, workers=1, **moment):
        words = ["data", "ingest", root, out, f"--secret-file={secret}", f"--workers={workers}"]
        return command(tmp_path, *words, **moment)

    return run


def half_a_line(number):
    """Die with half of the journal's `number`-th result in the file."""
    whole, left = json.dumps, [number + 1]  # the first line is the journal's head

    class Torn:
        def __add__(self, end):
            path = Path(sys.argv[4]) / archive.JOURNAL
            path.write_text(path.read_text() + '{"key": "12')
            die()

    def dumps(value, **settings):
        left[0] -= "key" in value or "secret" in value
        return whole(value, **settings) if left[0] else Torn()

    archive.json.dumps = dumps


def test_killed_while_an_archive_is_ingested(ingest, tmp_path):
    assert not in_child(ingest(tmp_path / "count"))
    images = len(list((tmp_path / "count/images").rglob("*.png")))
    assert images >= 2
    # The journal, the pictures, then both tables, the sheet and the report.
    moments = replacing(1, 2, images + 1, *range(images + 2, images + 6)) | {
        "between picture and journal": partial(wrap, archive, "_convert", 2, after=True),
        "half a line": partial(half_a_line, 2),
    }
    check_kills(tmp_path, ingest, moments, randomly=5)


def test_the_workers_of_a_killed_ingest_end_with_it(ingest, tmp_path):
    assert not in_child(ingest(tmp_path / "whole"))

    def watch_and_die():
        results = archive._results

        def dying(*arguments):
            for result in results(*arguments):
                workers = [str(child.pid) for child in psutil.Process().children(recursive=True)]
                (tmp_path / "workers").write_text(" ".join(workers))
                yield result
                die()

        archive._results = dying

    assert in_child(ingest(tmp_path / "cut", workers=2, moment=watch_and_die))
    workers = [int(pid) for pid in (tmp_path / "workers").read_text().split()]
    assert len(workers) >= 2
    deadline = time.monotonic() + 60
    while any(map(psutil.pid_exists, workers)):
        assert time.monotonic() < deadline, "a worker outlives the command"
        time.sleep(0.1)
    assert not in_child(ingest(tmp_path / "cut"))
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


def sweep_in(folder, method="grid", *options):
    """Write a sweep of four trials, and return a function that returns the task of running it."""
    space = {"values": [1.0, 2.0, 3.0, 4.0]} if method == "grid" else {"min": 0.0, "max": 5.0}
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text(yaml.safe_dump({
        "method": method, "metric": {"name": "best/composite", "goal": "maximize"},
        "command": ["python", str(TRIAL), *options, "${args}"], "parameters": {"model.x": space},
    }))  # fmt: skip
    return partial(command, folder, "sweep", "run", "tiny.yaml", "--local", "--count=4")


def done(folder):
    """Return the settings of the completed trials; nothing of an interrupted one still runs."""
    study = load(folder / "outputs/sweeps/tiny")
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    for trial in complete:
        assert (folder / "outputs/tiny" / trial.user_attrs["run"] / "metrics.csv").is_file()
    own = [process for process in psutil.process_iter() if runs_of(process, study.study_name)]
    assert not own, "a trial outlived its runner"
    return sorted(trial.params["model.x"] for trial in complete)


def runs_of(process, study):
    try:
        return process.environ().get(RUN_VARIABLE, "").startswith(study)
    except psutil.Error:
        return False


def torn(number):
    """Die with half of the `number`-th entry in the study's journal, and its lock held."""
    whole, left = os.fsync, [number]

    def fsync(descriptor):
        whole(descriptor)
        left[0] -= 1
        if not left[0]:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - 20)
            die()

    os.fsync = fsync


def test_a_sweep_killed_around_each_kind_of_entry_in_its_journal(tmp_path):
    whole = sweep_in(tmp_path / "whole")
    assert not in_child(whole())
    assert done(tmp_path / "whole") == [1, 2, 3, 4]
    entries = len((tmp_path / "whole/outputs/sweeps/tiny/journal.log").read_text().splitlines())
    moments = [partial(wrap, JournalFileBackend, "append_logs", number, after=True)
               for number in range(1, entries, 3)]  # fmt: skip
    moments += [partial(torn, number) for number in (1, entries // 2, entries)]
    moments += [partial(wrap, TrialProcess, "__init__", number, after=True) for number in (1, 3)]
    for number, moment in enumerate(moments):
        folder = tmp_path / str(number)
        run = sweep_in(folder)
        assert in_child(run(moment=moment)), f"{moment}: it comes"
        began = time.monotonic()
        assert not in_child(run())
        print(f"{moment.args}: {time.monotonic() - began:.1f} s", file=sys.stderr)
        assert done(folder) == [1, 2, 3, 4], moment


def test_a_sweep_killed_twice_runs_no_settings_twice(tmp_path):
    """The second time after the interrupted trial's settings were queued, before it was marked as failed."""
    run = sweep_in(tmp_path / "one", "random")
    assert in_child(run(moment=partial(wrap, TrialProcess, "__init__", 2, after=True)))
    assert in_child(run(moment=partial(wrap, Study, "enqueue_trial", 1, after=True)))
    assert not in_child(run())
    assert len(set(done(tmp_path / "one"))) == 4


def test_a_trial_whose_process_no_runner_has_noted_ends_when_the_sweep_goes_on(tmp_path):
    folder = tmp_path / "one"
    run = sweep_in(folder, "grid", "--mode=wait-at-3")
    assert in_child(run(moment=partial(wrap, TrialProcess, "__init__", 3, after=True)))
    (folder / "go").touch()
    assert not in_child(run())
    assert done(folder) == [1, 2, 3, 4]


def test_a_sweep_killed_at_random_moments(tmp_path):
    kill = RandomKills(seconds_of(sweep_in(tmp_path / "whole")()))
    for number in range(5):
        run = sweep_in(tmp_path / str(number))
        kill(run())
        time.sleep(
            1
        )  # a new Python takes longer; until its exec, a trial's process does not bear the run's name
        assert not in_child(run())
        assert done(tmp_path / str(number)) == [1, 2, 3, 4]
    print(f"{kill.killed} of 5 random kills before the end", file=sys.stderr)
    assert kill.killed
