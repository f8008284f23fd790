"""The command line of a sweep's run that W&B queued again: the same words, and yet it goes on where it was."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.loggers import WandbLogger

from experiments.runs.cli import SonoDistillCLI
from experiments.runs.run_folder import RUN_VARIABLE
from lightning_modules import TimmSyncBatchNorm

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"
INTERRUPTED = Path("outputs/srkd/phantom-s0-20260101-120000-abc")
LAST = INTERRUPTED / "checkpoints" / "last.ckpt"


class Recorded(SonoDistillCLI):
    """Builds everything for real, and notes what training or test would be asked for."""

    def fit(self, **given):
        self.given = given

    def test(self, **given):
        self.given = given

    def after_fit(self):
        pass

    def after_test(self):
        pass


def write_checkpoint(path, run_id="abc"):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"loops": {}, "student": {}, "callbacks": {"WandbRun": {"run_id": run_id}}}, path)
    return path


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Start what W&B's agent starts, in a folder with the run that was interrupted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.runs.cli.check_run", lambda *_: None)  # would draw a corpus
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    for name, value in {"MODE": "offline", "SWEEP_ID": "sweep1", "RUN_ID": "abc"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    # Set before deleted, so that what a new run puts there is taken back after the test.
    monkeypatch.setenv(RUN_VARIABLE, "")
    monkeypatch.delenv(RUN_VARIABLE)
    write_checkpoint(LAST)
    began = {"experiment": "srkd", "data": {"class_path": "datamodules.PhantomDataModule"}}
    (INTERRUPTED / "config.yaml").write_text(yaml.safe_dump(began))
    (INTERRUPTED / "metrics.csv").write_text("step\n0\n")

    def start(*words, subcommand="fit"):
        argv = [subcommand, "--config=experiments/recipes/srkd.yaml", f"--config={SMALL}", *words]
        monkeypatch.setattr(sys, "argv", ["experiments", *argv])
        return Recorded(argv, argv)

    return start


def wandb_id(cli):
    (logger,) = (logger for logger in cli.trainer.loggers if isinstance(logger, WandbLogger))
    return logger._wandb_init["id"]


def test_it_goes_on_from_its_own_last_checkpoint_in_its_own_folder_and_wandb_run(command, capsys):
    cli = command()
    assert cli.trainer._accelerator_connector._layer_sync is None, "unless asked for"
    assert cli.given["ckpt_path"] == str(LAST)
    assert cli.given["weights_only"] is True, "a checkpoint runs no code"
    assert cli.folder.resolve() == INTERRUPTED.resolve()
    assert Path(cli.selection.dirpath).resolve() == LAST.resolve().parent
    assert wandb_id(cli) == "abc"
    assert (INTERRUPTED / "metrics-000.csv").read_text() == "step\n0\n", "Lightning would start the file anew"
    assert not (INTERRUPTED / "metrics.csv").exists()
    assert f"this run was requeued; resuming from {LAST}" in capsys.readouterr().out


def test_a_checkpoint_that_the_command_names_comes_first(command):
    other = write_checkpoint(Path("outputs/srkd/other/checkpoints/last.ckpt"), run_id="xyz")
    cli = command(f"--ckpt_path={other}")
    assert cli.given["ckpt_path"] == str(other)
    assert (cli.folder.resolve(), wandb_id(cli)) == (other.resolve().parents[1], "xyz")
    assert (INTERRUPTED / "metrics.csv").exists(), "it was left alone"


def test_a_branch_from_another_runs_checkpoint_is_a_run_of_its_own(command):
    other = write_checkpoint(Path("outputs/srkd/other/checkpoints/last.ckpt"), run_id="xyz")
    cli = command("--run=branch", f"--ckpt_path={other}")
    assert cli.folder == Path("outputs/srkd/branch")
    assert wandb_id(cli) != "xyz"
    write_checkpoint(Path("outputs/srkd/branch/checkpoints/last.ckpt"), run_id="abc")
    with pytest.raises(ValueError, match="outputs/srkd/branch already holds a run"):
        command("--run=branch", f"--ckpt_path={other}")


def test_last_is_the_last_checkpoint_of_the_run_that_is_named(command):
    mine = write_checkpoint(Path("outputs/srkd/mine/checkpoints/last.ckpt"), run_id="xyz")
    (mine.parents[1] / "results.json").write_text("of older weights")
    cli = command("--run=mine", "--ckpt_path=last")
    assert not (mine.parents[1] / "results.json").exists(), "best.ckpt will be another one"
    assert (mine.parents[1] / "results-000.json").read_text() == "of older weights"
    assert cli.given["ckpt_path"] == str(mine)
    assert (cli.folder, wandb_id(cli)) == (Path("outputs/srkd/mine"), "xyz")


def test_a_second_run_of_the_same_name_is_refused_with_the_two_ways_on(command):
    mine = Path("outputs/srkd/mine/results.json")
    mine.parent.mkdir(parents=True)
    mine.write_text("of the first run")
    with pytest.raises(ValueError, match=r"^[^\n]*$") as refused:
        command("--run=mine")
    assert str(refused.value) == (
        "--run=mine: outputs/srkd/mine already holds a run; choose another --run=NAME, or resume "
        "this one: --run=mine --ckpt_path=last"
    )
    assert [path for path in Path("outputs/srkd/mine").rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "of the first run"


def test_a_run_that_failed_at_its_start_can_be_begun_again(command):
    folder = Path("outputs/srkd/mine")
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "request.json", "metrics.csv"):
        (folder / name).touch()
    cli = command("--run=mine")
    assert (cli.folder, cli.given["ckpt_path"]) == (folder, None)
    assert (INTERRUPTED / "metrics.csv").exists(), "the run that was requeued is left alone"


def test_what_is_finished_or_of_another_experiment_begins_anew(command, capsys):
    assert command("--experiment=other").given["ckpt_path"] is None
    (INTERRUPTED / "results.json").touch()
    cli = command()
    assert cli.given["ckpt_path"] is None
    assert cli.folder != INTERRUPTED
    assert cli.folder.name.endswith("-abc"), "where the agent would find it after another interruption"
    assert "requeued" not in capsys.readouterr().out


def test_the_checkpoint_of_other_data_is_refused(command):
    began = {"experiment": "srkd", "data": {"class_path": "datamodules.HC18DataModule"}}
    (INTERRUPTED / "config.yaml").write_text(yaml.safe_dump(began))
    with pytest.raises(ValueError, match=r"this run's data is datamodules\.HC18DataModule"):
        command()


def test_only_training_goes_on(command):
    assert command(subcommand="test").given["ckpt_path"] is None


def test_a_single_callback_joins_those_of_every_run_and_timms_batch_norms_are_synchronised(command):
    monitor = "--trainer.callbacks=lightning.pytorch.callbacks.DeviceStatsMonitor"
    cli = command(monitor, "--trainer.sync_batchnorm=true")
    kinds = [type(callback).__name__ for callback in cli.trainer.callbacks]
    assert {"DeviceStatsMonitor", "StepSeed", "LastCheckpoint"} <= set(kinds)
    # Gloo cannot synchronise batch norms, so no training on the CPU shows it.
    assert isinstance(cli.trainer._accelerator_connector._layer_sync, TimmSyncBatchNorm)


def test_slurms_own_requeueing_is_off_and_its_job_goes_on_from_a_predecessor(command, monkeypatch, capsys):
    job = {"JOB_ID": "42", "RESTART_COUNT": "1", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(name)
    folder = Path("outputs/srkd/phantom-s0-slurm42")
    previous = write_checkpoint(folder / "checkpoints" / "previous.ckpt", run_id="own")
    (folder / "checkpoints" / "last.ckpt").write_bytes(previous.read_bytes()[:-100])
    cli = command()
    assert cli.given["ckpt_path"] == str(previous)
    assert cli.folder.resolve() == folder.resolve()
    assert cli.trainer._accelerator_connector.cluster_environment.auto_requeue is False
    assert "last.ckpt: damaged" in capsys.readouterr().out
