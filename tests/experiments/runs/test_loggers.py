"""Where a run's loggers write: in its own folder, and so does the run that repeats it."""

import sys
from pathlib import Path

import pytest
import torch
import wandb
import yaml
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import SaveResolvedConfig
from experiments.plain_errors import PlainErrorParser
from experiments.runs import loggers
from experiments.runs.cli import SonoDistillCLI
from experiments.runs.run_folder import RUN_VARIABLE
from experiments.runs.run_record import run_config
from tests.callbacks.wandb_log import WandbLog

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"
WANDB = "lightning.pytorch.loggers.WandbLogger"


class Written(SonoDistillCLI):
    """Builds everything for real and writes what a run writes, without training."""

    def fit(self, ckpt_path=None, **_):
        self.checkpoint = ckpt_path
        for callback in self.trainer.callbacks:
            if isinstance(callback, SaveResolvedConfig):
                callback.setup(self.trainer, self.model, "fit")
        for logger in self.trainer.loggers:
            logger.log_metrics({"train/loss/total": 1.0}, step=0)
            logger.save()
            logger.finalize("success")
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()

    def after_fit(self):
        pass


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # as `loggers` sets it; taken back after the test
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.setattr("experiments.runs.cli.check_run", lambda *_: None)  # would draw a corpus
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def start(*words):
        # Set before deleted, so that what a new run puts there is taken back after the test.
        monkeypatch.setenv(RUN_VARIABLE, "")
        monkeypatch.delenv(RUN_VARIABLE)
        argv = ["fit", *words]
        monkeypatch.setattr(sys, "argv", ["experiments", *argv])
        return Written(argv, argv)

    yield start
    wandb.teardown()  # its service writes relative to the folder that it was started in


def first_run(start, *words):
    return start("--config=experiments/recipes/srkd.yaml", f"--config={SMALL}", *words)


def files(folder):
    """Return the content of every file but the logs that W&B's service ends when it likes."""
    WandbLog.only_one(folder)  # waits until it is written
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"}


def wandb_logger(cli):
    (logger,) = (logger for logger in cli.trainer.loggers if isinstance(logger, WandbLogger))
    return logger


def test_the_repeat_of_a_resumed_run_from_its_config_leaves_that_as_it_is_and_begins_anew(start):
    checkpoint = Path("outputs/srkd/one/checkpoints/last.ckpt")
    checkpoint.parent.mkdir(parents=True)
    torch.save({"loops": {}, "student": {}, "callbacks": {"WandbRun": {"run_id": "abc"}}}, checkpoint)
    first = first_run(start, f"--ckpt_path={checkpoint}")
    assert (first.checkpoint, WandbLog.only_one(first.folder).run_id) == (str(checkpoint), "abc")
    assert {path.name for path in first.folder.iterdir()} >= {"config.yaml", "metrics.csv", "wandb"}
    before = files(first.folder)
    again = start(f"--config={first.folder}/config.yaml")
    assert files(first.folder) == before
    assert again.checkpoint is None
    assert again.folder.resolve().parent == first.folder.resolve().parent
    assert again.folder.resolve() != first.folder.resolve()
    assert {path.name for path in again.folder.iterdir()} >= {"config.yaml", "metrics.csv", "wandb"}
    assert WandbLog.only_one(again.folder).run_id != "abc"
    assert wandb_logger(again)._wandb_init["name"] == f"srkd/{again.folder.name}"


def test_a_single_wandb_logger_is_settled_like_one_of_several(start, capsys):
    cli = first_run(start, "--run=one", f"--trainer.logger={WANDB}", "--trainer.logger.project=mine")
    assert "WANDB_MODE=offline, so logging offline" in capsys.readouterr().out
    asked = wandb_logger(cli)._wandb_init
    assert (asked["project"], asked["name"], asked["mode"]) == ("mine", "srkd/one", "offline")
    assert list(cli.folder.glob("wandb/offline-run-*"))
    assert check_written(cli) == {"config.yaml", "wandb"}


def test_what_the_user_chose_for_a_wandb_logger_stays(start, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    monkeypatch.setenv("WANDB_CONSOLE", "wrap")
    chosen = {"name": "n", "id": "i", "save_dir": "elsewhere", "settings": {"run_group": "g"}}
    options = [f"--trainer.logger.{key}={value}" for key, value in chosen.items()]
    cli = first_run(start, "--run=one", f"--trainer.logger={WANDB}", "--media.upload_images=false", *options)
    run = WandbLog.only_one(Path("elsewhere"))
    assert run.run_id == "i"
    used = wandb_logger(cli).experiment.settings
    assert (used.run_name, used.run_group, used.console) == ("n", "g", "off")
    assert used.base_url == "https://wandb.example.org", (
        "the defaults beside them do not override the variables"
    )
    assert not (cli.folder / "wandb").exists()


def test_where_nothing_is_withheld_wandbs_own_variables_decide(start, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    monkeypatch.setenv("WANDB_CONSOLE", "wrap")
    settings = wandb_logger(first_run(start, "--run=one", "--media.upload_images=true")).experiment.settings
    assert (settings.base_url, settings.console) == ("https://wandb.example.org", "wrap")


def test_true_is_the_loggers_of_the_recipe_and_false_is_none(start):
    cli = first_run(start, "--run=one", "--trainer.logger=true")
    assert [type(logger) for logger in cli.trainer.loggers] == [CSVLogger, WandbLogger]
    assert (cli.folder / "metrics.csv").is_file()
    cli = first_run(start, "--run=two", "--trainer.logger=false")
    assert cli.trainer.loggers == []
    assert {path.name for path in cli.folder.iterdir()} == {".lock", "config.yaml"}


def check_written(cli):
    """Check that a run wrote into its own folder alone, and return the names there."""
    assert {path.name for path in Path().iterdir()} == {"experiments", "outputs"}
    assert run_config(str(cli.folder / "checkpoints" / "best.ckpt"))["experiment"] == "srkd"
    saved = yaml.safe_load((cli.folder / "config.yaml").read_text())["trainer"]["logger"]
    saved = saved if isinstance(saved, list) else [saved]
    assert {logger["init_args"]["save_dir"] for logger in saved} == {"."}, "a repeat would write here"
    return {path.name.split(".out")[0] for path in cli.folder.glob("[!.]*")}


def name_on_mlflow(cli):
    """Return a run's name; MLflow remembers folders by their relative paths, so each test has its own."""
    client = MlflowClient(f"file:{cli.folder / 'mlruns'}")
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    return run.info.run_name


def test_mlflow_alone_writes_into_the_runs_folder_under_the_runs_name(start):
    cli = first_run(start, "--run=one", "--trainer.logger=MLFlowLogger")
    assert check_written(cli) == {"config.yaml", "mlruns"}
    assert name_on_mlflow(cli) == "srkd/one"


def test_several_loggers_write_into_the_runs_folder_and_keep_a_name_of_the_users(start):
    others = [
        "--trainer.logger+=CSVLogger",
        "--trainer.logger+=MLFlowLogger",
        "--trainer.logger.run_name=mine",
    ]
    cli = first_run(start, "--run=two", "--trainer.logger=TensorBoardLogger", *others)
    assert check_written(cli) == {"config.yaml", "mlruns", "events", "hparams.yaml", "metrics.csv"}
    (scalar,) = EventAccumulator(str(cli.folder)).Reload().Scalars("train/loss/total")
    assert (scalar.step, scalar.value) == (0, 1.0)
    assert name_on_mlflow(cli) == "mine"


class NeedsFolder(DummyLogger):
    """A logger of the user's own that requires its folder."""

    def __init__(self, save_dir: str, version: int = 3) -> None:
        self.save_dir, self.kept_version = save_dir, version


def test_a_logger_of_ones_own_needs_no_folder_and_keeps_its_other_defaults():
    parser = PlainErrorParser()
    parser.add_argument("--logger", type=Logger)
    given = parser.parse_object({"logger": {"class_path": f"{__name__}.NeedsFolder"}}).logger
    assert given.init_args.as_dict() == {"save_dir": ".", "version": 3}


@pytest.mark.parametrize("name", ["MLFlowLogger", "CometLogger", "TensorBoardLogger"])
def test_a_logger_without_its_package_says_what_to_install(monkeypatch, name):
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    package = {"MLFlowLogger": "mlflow", "CometLogger": "comet_ml", "TensorBoardLogger": "tensorboard"}[name]
    with pytest.raises(ValueError, match=f"{name} needs the package {package}.*make add"):
        loggers.check_loggers(Namespace(trainer=Namespace(logger=Namespace(class_path=f"x.{name}"))))
