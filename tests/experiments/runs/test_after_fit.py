"""What follows a fit: test patients are scored once, or not at all when that was asked for."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from callbacks import BestCheckpoint
from experiments.runs import cli as module
from experiments.runs.cli import SonoDistillCLI
from metrics.names import VAL_COMPOSITE


@pytest.fixture
def after_fit(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save({}, "best.ckpt")

    def run(score, experiment, best="best.ckpt"):
        seen = []
        cli = object.__new__(SonoDistillCLI)
        cli.trainer = SimpleNamespace(
            fast_dev_run=False,
            interrupted=False,
            is_global_zero=True,
            strategy=SimpleNamespace(barrier=lambda: None),
            test=lambda *_, ckpt_path, **__: seen.append(f"test {ckpt_path}"),
        )
        cli.selection = SimpleNamespace(best_model_path=best)
        cli.model = cli.datamodule = cli.recipe = None
        cli.subcommand, cli.folder = "fit", Path("run")
        cli.config = Namespace(fit=Namespace(experiment=experiment, score_test_patients=score))
        monkeypatch.setattr(SonoDistillCLI, "finish", lambda _, best: seen.append(f"results {best}"))
        monkeypatch.setattr(module, "publish_teacher", lambda best, *_: seen.append(f"keep {best}"))
        cli.after_fit()
        return seen

    return run


@pytest.mark.parametrize(("experiment", "scored"), [("teacher", True), ("srkd", False)])
def test_a_checkpoint_of_a_teacher_is_evaluated_as_a_teacher(tmp_path, experiment, scored):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"experiment": experiment, "data": {}}))
    path = str(tmp_path / "checkpoints" / "best.ckpt")
    cli = object.__new__(SonoDistillCLI)
    cli.command = ["evaluate", "phantom", path]
    student = Namespace(class_path="models.from_checkpoint", init_args=Namespace(path=path))
    assert cli._scores_teacher(Namespace(experiment="evaluate", model=Namespace(student=student))) == scored


def test_the_selected_checkpoint_is_scored_and_a_teacher_kept(after_fit):
    assert after_fit(True, "srkd") == ["test best.ckpt", "results best.ckpt"]
    assert after_fit(True, "teacher") == ["test best.ckpt", "results best.ckpt", "keep best.ckpt"]


def test_a_teacher_can_be_kept_without_a_look_at_the_test_patients(after_fit):
    assert after_fit(False, "teacher") == ["keep best.ckpt"]


def test_the_metrics_of_a_resumed_run_are_joined_without_a_look_at_the_test_patients(after_fit):
    folder = Path("run")
    folder.mkdir()
    for name, rows in (("metrics-000", "0,9\n1,8\n2,7\n"), ("metrics", "2,7\n3,6\n")):
        (folder / f"{name}.csv").write_text(f"step,loss\n{rows}")
    after_fit(False, "srkd")
    assert (folder / "metrics.csv").read_text() == "step,loss\n0,9\n1,8\n2,7\n3,6\n"
    assert not (folder / "metrics-000.csv").exists()


def test_without_any_score_the_last_weights_become_the_best(after_fit, capsys):
    folder = Path("run") / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"weights": "last"}, folder / "last.ckpt")
    best = str(folder / "best.ckpt")
    assert after_fit(True, "teacher", best="") == [f"test {best}", f"results {best}", f"keep {best}"]
    told = f"no score was logged to select by: {best} holds the last weights"
    assert told in capsys.readouterr().out
    assert Path(best).read_bytes() == (folder / "last.ckpt").read_bytes()
    assert [path.name for path in sorted(folder.iterdir())] == ["best.ckpt", "last.ckpt"]


class OneWeight(LightningModule):
    """Whose weight tells how many steps were made."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, _):
        return -self.weight * batch.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def selection(tmp_path):
    return BestCheckpoint(tmp_path, "best", monitor=VAL_COMPOSITE, mode="max", enable_version_counter=False)


def test_data_without_benchmarks_keep_the_last_weights_as_the_best(tmp_path):
    checkpoint = selection(tmp_path)
    module._keep_the_last_as_best(checkpoint)
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, callbacks=[checkpoint], enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(OneWeight(), DataLoader(torch.ones(4, 1), batch_size=2))
    assert checkpoint.best_model_path == str(tmp_path / "best.ckpt")
    saved = torch.load(checkpoint.best_model_path, weights_only=True)
    assert saved["epoch"] == 2
    assert saved["state_dict"]["weight"] == 6


class Worsening(OneWeight):
    """Whose validation score is lower after every epoch."""

    def on_train_epoch_end(self):
        self.log(VAL_COMPOSITE, 1.0 / (1 + self.current_epoch))


@pytest.mark.parametrize("moved", [True, False])
def test_a_run_that_goes_on_in_another_folder_selects_among_the_weights_there(tmp_path, moved):
    def fit(folder, epochs, **options):
        best = selection(folder)
        best._save_on_train_epoch_end = True
        trainer = Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, callbacks=[best], enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(Worsening(), DataLoader(torch.ones(4, 1), batch_size=2), **options)
        trainer.save_checkpoint(folder / "last.ckpt")
        return best.best_model_path

    first, second = tmp_path / "first", tmp_path / "second"
    assert fit(first, 1) == str(first / "best.ckpt")
    if moved:
        first.rename(second)
    last = (second if moved else first) / "last.ckpt"
    assert fit(second, 2, ckpt_path=last, weights_only=True) == str(second / "best.ckpt")
    assert torch.load(second / "best.ckpt", weights_only=True)["epoch"] == (0 if moved else 1)


def test_a_monitor_that_the_user_chose_stays(tmp_path):
    checkpoint = selection(tmp_path)
    checkpoint.monitor = "loss"
    module._keep_the_last_as_best(checkpoint)
    assert checkpoint.monitor == "loss"


@pytest.mark.parametrize(
    ("end", "interrupted", "raised"),
    [
        (SystemExit(1), True, SystemExit(130)),  # as Lightning ends a trainer after Ctrl-C
        (SystemExit(1), False, SystemExit(1)),
        (SIGTERMException(), True, SIGTERMException()),  # a SystemExit too; the command makes it 143
    ],
)
def test_a_run_stopped_by_ctrl_c_exits_with_130(monkeypatch, end, interrupted, raised):
    def ended(*_):
        raise end

    monkeypatch.setattr(LightningCLI, "_run_subcommand", ended)
    cli = object.__new__(SonoDistillCLI)
    cli.trainer = SimpleNamespace(interrupted=interrupted)
    with pytest.raises(SystemExit) as stop:
        cli._run_subcommand("fit")
    assert (type(stop.value), stop.value.code) == (type(raised), raised.code)
