"""QUICK=1 bounds corpus, epochs and evaluation, and its results count nowhere."""

import json
import sys
from itertools import product

import pytest
from jsonargparse import Namespace

from datamodules.evaluation.protocol import Protocol
from datamodules.phantom.corpus import PhantomSettings
from datamodules.record import Record, first_of_each_split
from experiments import __main__ as command_line
from experiments.config import CAUTION, QUICK_SETTINGS, is_quick, resolve, whole_counts, with_quick_settings
from experiments.suites.suite_runs import has_results
from models import zero_shot
from tests.conftest import make
from tests.experiments.runs.documented import violations
from tests.experiments.runs.test_evaluate_pair import TOWER

STUDENT = f"--model.student={json.dumps({'class_path': 'models.TimmEncoder', 'init_args': TOWER})}"


def bounds_of(config):
    data = config.data.init_args
    return config.quick, config.trainer.max_epochs, data.most_images, config.biometry.most_prompts


def test_every_limit_makes_a_quick_run():
    whole = resolve("srkd", "hc18")
    assert not is_quick(whole)
    limits = {
        "quick": True, "trainer.fast_dev_run": True, "trainer.overfit_batches": 2, "trainer.limit_val_batches": 0.1,
        "trainer.limit_test_batches": 3, "trainer.limit_train_batches": 3,
    }  # fmt: skip
    for name, value in limits.items():
        config = whole.clone()
        config[name] = value
        assert is_quick(config), name


def test_a_limit_bounds_the_whole_run():
    config = resolve("srkd", "hc18", ["--trainer.limit_val_batches=0.1"])
    assert bounds_of(config) == (True, 1, 24, 1)
    assert config.data.class_path == "datamodules.HC18DataModule"


def test_what_bounds_nothing_or_is_asked_for_stays():
    whole = bounds_of(resolve("srkd", "phantom", []))
    assert whole[0] is None
    assert whole[1] > 3
    given = ["--trainer.limit_train_batches=0.5", "--trainer.limit_val_batches=0", "--trainer.max_steps=9"]
    assert bounds_of(resolve("srkd", "phantom", given)) == whole
    config = resolve("srkd", "phantom", ["--quick=false", "--trainer.limit_train_batches=3"])
    assert bounds_of(config) == (False, *whole[1:])
    config = resolve("srkd", "phantom", ["--trainer.max_epochs=3", "--quick", "--data.most_images=30"])
    assert bounds_of(config) == (True, 3, 30, 1)


def test_a_number_of_batches_is_an_integer_whatever_was_imported_first():
    config = Namespace(
        trainer=Namespace(limit_test_batches=3.0, limit_val_batches=1.0, limit_train_batches=0.5)
    )
    assert [repr(value) for value in vars(whole_counts(config).trainer).values()] == ["3", "1.0", "0.5"]


def test_bounds_stand_behind_the_files_and_before_the_users_options():
    for config in (["--config=a.yaml"], ["-c", "a.yaml"], ["--config", "a.yaml"], []):
        assert with_quick_settings(["fit", *config, "--x=1"]) == ["fit", *config, *QUICK_SETTINGS, "--x=1"]


def test_an_option_in_front_of_a_file_of_the_users_stands(tmp_path):
    (tmp_path / "own.yaml").write_text("trainer: {log_every_n_steps: 7}")
    options = ["--quick", "--data.batch_size=4", "--trainer.max_epochs", "2"]
    given = [*options, f"--config={tmp_path / 'own.yaml'}"]
    config = resolve("no-kd", "phantom", given)
    assert (config.data.init_args.batch_size, config.trainer.max_epochs) == (4, 2)
    assert (config.data.init_args.most_images, config.trainer.log_every_n_steps) == (24, 1)


def test_make_hands_it_on():
    for target in (["train"], ["evaluate", "CKPT=x.ckpt"], ["sweep"], ["reproduce"]):
        assert "--quick=true" in make("-n", *target, "QUICK=1").stdout
    for off in ("QUICK=0", "QUICK=", "QUICK=no", "QUICK=off", "QUICK=False", "QUICK=false"):
        assert "--quick" not in make("-n", "train", off).stdout


def test_the_first_images_of_each_split_are_of_every_plane():
    planes = [("planes", "brain", "trans-thalamic"), ("planes", "heart", None), ("hc18", "brain", None)]
    kinds = product(range(5), ("train", "test"), planes)
    records = [
        Record(corpus, f"{number}-{split}-{plane}", "x.png", "p", plane, brain_plane, split=split)
        for number, split, (corpus, plane, brain_plane) in kinds
    ]
    kept = first_of_each_split(records, 4)
    assert [record for record in records if record in kept] == kept, "in their order"
    for split in ("train", "test"):
        own = [(record.corpus, record.plane, record.brain_plane) for record in kept if record.split == split]
        assert len(own) == 4
        assert set(own) == set(planes)
    assert first_of_each_split(records, 100) == records


def test_the_first_prompts_and_pictures():
    short = Protocol.load().first(1)
    assert {len(texts) for texts in [*short.planes.values(), *short.subplanes.values(), short.biometry]} == {
        1
    }
    assert short.digest != Protocol.load().digest
    assert PhantomSettings().at_most(50, 9999) == PhantomSettings(
        num_planes_images=50, num_hc18_images=1600, num_pair_images=0, further_tests=0.0
    )


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Count the prompts that are embedded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SONODISTILL_RUN", raising=False)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(sys, "argv", ["experiments"])
    monkeypatch.setattr("experiments.runs.cli.plots.write_all", lambda *_: None)
    embedded = []
    whole = zero_shot.encode_prompts

    def count(model, prompts, *rest, **options):
        embedded.append(len(set(prompts)))
        return whole(model, prompts, *rest, **options)

    monkeypatch.setattr(zero_shot, "encode_prompts", count)
    return tmp_path, embedded


SMALL = (
    STUDENT, "--model.teacher=null", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
    "--planes.figures=false", "--biometry.figures=false",
)  # fmt: skip


def test_a_quick_run_is_small_has_patients_of_every_split_and_says_what_it_is(workplace, capsys):
    """The teacher's preset keeps 2 or 3 of 100 patients for validation and test: of few patients none."""
    folder, embedded = workplace
    shares = ["--data.corpus.test_share=0.02", "--data.val_share=0.03", "--data.hc18_test_share=0.02"]
    given = ["--run=reproduce-phantom-s1", "--quick", "--data.most_images=12", *shares]
    command_line.run(["train", "no-kd", "phantom", *given, *SMALL])
    run = folder / "outputs" / "no-kd" / "reproduce-phantom-s1"
    record = json.loads((run / "results.json").read_text())
    assert violations(record) == []
    assert (record["run"]["quick"], record["cautions"]) == (True, [CAUTION])
    assert not has_results(run)
    printed = capsys.readouterr().out
    assert printed.strip().splitlines()[-1] == f"warning: {CAUTION}"
    assert CAUTION in (run / "report.html").read_text()
    scored = record["details"]["student"]
    assert set(scored) == {"planes", "subplanes", "hc18"}
    assert all(0 < details["n_scored"] <= 12 for details in scored.values())
    assert record["metrics"]["constant/hc18/age_days"] > 0, "which is fitted to training heads"
    # Student in validation, student and random weights in the test: 175 ages at 12 spacings at most.
    assert 0 < sum(embedded) <= 3 * (175 * 12 + 8)
    assert len(list(folder.glob("data/phantom/*/**/*.png"))) <= 100


@pytest.mark.slow
def test_a_quick_evaluation_takes_a_quick_run(workplace):
    folder, _ = workplace
    command_line.run(["train", "no-kd", "phantom", "--run=r", "--quick", *SMALL])
    checkpoint = folder / "outputs/no-kd/r/checkpoints/best.ckpt"
    command_line.run(["evaluate", "phantom", str(checkpoint), "--quick", *SMALL[1:]])
    (results,) = folder.glob("outputs/evaluate/*/results.json")
    assert json.loads(results.read_text())["metrics"]["student/probe/views_f1"] >= 0


@pytest.mark.slow
def test_fast_dev_run_is_small_too(workplace, capsys):
    _, embedded = workplace
    command_line.run(["train", "no-kd", "phantom", "--trainer.fast_dev_run=true", *SMALL])
    assert 0 < sum(embedded) <= 175 * 24 + 8
    assert capsys.readouterr().out.strip().splitlines()[-1] == f"warning: {CAUTION}"
