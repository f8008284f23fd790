"""A sweep on this machine whose trials are `tiny_trial.py`."""

from pathlib import Path

import yaml

from experiments.sweep.local_runner import run_locally
from experiments.sweep.local_study import load, was_interrupted
from experiments.sweep.sweep_file import read_sweep

SCRIPT = Path(__file__).with_name("tiny_trial.py")
GRID = {"model.x": {"values": [1.0, 2.0, 3.0, 4.0]}}


def write_sweep(method="grid", parameters=None, options=(), **more):
    config = {
        "method": method,
        "metric": {"name": "best/composite", "goal": "maximize"},
        "command": ["python", str(SCRIPT), *options, "${args}"],
        "parameters": parameters or GRID,
        **more,
    }
    Path("tiny.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return read_sweep(Path("tiny.yaml"))


def sweep(count=None, jobs=1, arguments=(), name="tiny", **kinds):
    folder = Path("outputs/sweeps") / name
    status = run_locally(write_sweep(**kinds), folder, count, jobs, list(arguments))
    return status, load(folder)


def states(study):
    trials = [trial for trial in study.trials if trial.state.name != "WAITING"]
    return [trial.state.name for trial in trials if not was_interrupted(trial)]


def seen(trial):
    return (Path("outputs/tiny") / trial.user_attrs["run"] / "seen.txt").read_text().splitlines()
