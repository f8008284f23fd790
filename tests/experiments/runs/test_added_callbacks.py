"""Callbacks that a user adds, through the real command line: checkpoints and weight averaging."""

import json
import sys
from pathlib import Path

import pytest
import torch

from experiments import __main__ as command_line

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"
LIGHTNING = "lightning.pytorch.callbacks"
ADDED = [
    f"--trainer.callbacks+={LIGHTNING}.ModelCheckpoint",
    f"--trainer.callbacks+={LIGHTNING}.ModelCheckpoint",
    "--trainer.callbacks.monitor=val/composite",  # as the project's own
    "--trainer.callbacks.mode=max",
    "--trainer.callbacks.filename=mine",
    f"--trainer.callbacks+={LIGHTNING}.OnExceptionCheckpoint",
    "--trainer.callbacks.dirpath=failed",
]
AVERAGING = "--trainer.callbacks+=callbacks.EMAWeightAveraging"
BEST = Path("outputs/no-kd/r/checkpoints/best.ckpt")


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_phantom):
    """Return a function that runs a subcommand in a folder of this file's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("added"))
        patch.setattr("experiments.runs.cli.plots.write_all", lambda *_: None)
        patch.setattr("experiments.runs.cli.report_finished_run", lambda *_: None)

        def run(subcommand, name, *words):
            argv = [subcommand, f"--config={ROOT}/experiments/recipes/no-kd.yaml", f"--config={SMALL}"]
            argv += ["--data.batch_size=16", "--biometry.benchmarks=[]", "--trainer.logger=false"]
            argv += [
                "--model.teacher=null",
                "--planes.figures=false",
                f"--run={name}",
                *small_phantom,
                *words,
            ]
            patch.setattr(sys, "argv", ["experiments", *argv])
            command_line.main()
            return json.loads(Path(f"outputs/no-kd/{name}/results.json").read_text())

        yield run


@pytest.fixture(scope="module")
def averaged(run):
    """Results of a run of one epoch with weight averaging, and of a test of its selected checkpoint."""
    first = run("fit", "r", "--trainer.max_epochs=1", *ADDED, AVERAGING, "--trainer.callbacks.decay=0.9")
    saved = torch.load(BEST, weights_only=True)
    return first, saved, run("test", "t", f"--ckpt_path={BEST}")


@pytest.fixture(scope="module")
def records(run, averaged):
    """Results of that run, and of the same run resumed for a second epoch."""
    more = ["--trainer.max_epochs=2", "--ckpt_path=last", *ADDED, AVERAGING, "--trainer.callbacks.decay=0.9"]
    return averaged[0], run("fit", "r", *more)


def test_the_scores_after_training_are_those_of_the_averaged_weights(averaged):
    scores, saved, again = averaged
    assert not torch.equal(saved["state_dict"]["student.scale"], saved["trained_student"]["scale"])
    student = {name: value for name, value in scores["metrics"].items() if name.startswith("student/")}
    assert student == pytest.approx({name: again["metrics"][name] for name in student}, nan_ok=True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([AVERAGING, "--trainer.callbacks.decay=1.5"], "decay must be at least 0 and below 1, not 1.5"),
        ([AVERAGING, AVERAGING], "two EMAWeightAveraging; keep one"),
        (
            ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"],
            "use callbacks.EMAWeightAveraging",
        ),
    ],
)
def test_weight_averaging_that_cannot_work_is_one_line(run, capsys, given, said):
    with pytest.raises(SystemExit):
        run("fit", "refused", *given)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert not Path("outputs/no-kd/refused").exists()


@pytest.mark.parametrize("number", [0, 1])
def test_the_selected_checkpoint_is_scored_whatever_callbacks_are_added(records, number):
    selection = records[number]["selection"]
    assert Path(selection["checkpoint"]).name == "best.ckpt"
    assert selection["monitor"] == "val/composite"
    assert selection["score"] is not None


def test_added_callbacks_do_their_own_work_and_are_resumed(records):
    folder = Path("outputs/no-kd/r/checkpoints")
    first, second = (record["steps"] for record in records)
    assert second == 2 * first
    assert {path.name for path in folder.iterdir()} >= {"best.ckpt", "last.ckpt", "mine.ckpt"}
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    assert saved["global_step"] == second
    own = [key for key in saved["callbacks"] if "Checkpoint" in key]
    assert len(own) == 3, "two of the user's, one of the project's"


def test_an_empty_list_of_benchmarks_is_obeyed_and_the_rest_selects(records):
    scored = records[0]["details"]["student"]
    assert set(scored) == {"planes", "subplanes"}
