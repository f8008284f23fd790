"""What follows a fit: test patients are scored once, or not at all when that was asked for."""

from types import SimpleNamespace

import pytest
from jsonargparse import Namespace

from experiments import cli as module
from experiments.cli import SonoDistillCLI


@pytest.fixture
def after_fit(monkeypatch):
    def run(score, experiment):
        seen = []
        cli = object.__new__(SonoDistillCLI)
        cli.trainer = SimpleNamespace(
            fast_dev_run=False,
            interrupted=False,
            is_global_zero=True,
            checkpoint_callback=SimpleNamespace(best_model_path="best.ckpt"),
            test=lambda *_, ckpt_path, **__: seen.append(f"test {ckpt_path}"),
        )
        cli.model = cli.datamodule = cli.recipe = None
        cli.subcommand = "fit"
        cli.config = Namespace(fit=Namespace(experiment=experiment, score_test_patients=score))
        monkeypatch.setattr(SonoDistillCLI, "finish", lambda _, best: seen.append(f"results {best}"))
        monkeypatch.setattr(module, "publish_teacher", lambda best, *_: seen.append(f"keep {best}"))
        cli.after_fit()
        return seen

    return run


def test_the_selected_checkpoint_is_scored_and_a_teacher_kept(after_fit):
    assert after_fit(True, "srkd") == ["test best.ckpt", "results best.ckpt"]
    assert after_fit(True, "teacher") == ["test best.ckpt", "results best.ckpt", "keep best.ckpt"]


def test_a_teacher_can_be_kept_without_a_look_at_the_test_patients(after_fit):
    assert after_fit(False, "teacher") == ["keep best.ckpt"]
