"""What a run leaves in W&B, read back from its own binary log."""

import csv
import json
import math
import os
import signal
import threading
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn
from wandb.sdk.wandb_run import Run

from callbacks import (
    BestMetrics,
    GradientNorms,
    LastCheckpoint,
    ProbeBatch,
    Throughput,
    WandbRun,
    run_id_of,
)
from callbacks.tracking.step_metrics import towers
from metrics.geometry import logit_correlation
from models import TimmEncoder
from tests.callbacks.tiny import TinyData, TinyModule, quiet_trainer
from tests.callbacks.wandb_log import WandbLog

EVALUATION = [
    "probe/diagonal_correlation",
    "probe/off_diagonal_correlation",
    "best/composite",
    "best/loss/total",
]
STEP = [
    "gradient_norm/image",
    "gradient_norm/text",
    "gradient_norm/all",
    "speed/images_per_second",
    "speed/data_wait_share",
]


class Scores(Callback):
    """Stands for the evaluations: logs a composite that rises and falls."""

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val/composite", pl_module.scores[trainer.current_epoch % len(pl_module.scores)])


class StopAt(Callback):
    """Raises where Lightning would on SIGTERM."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise SIGTERMException


def train(folder, extra=(), run_id=None, checkpoint=None):
    probe = ProbeBatch(size=16, count=3)
    tracking = [Scores(), WandbRun(), GradientNorms(), Throughput(), BestMetrics(), probe]
    trainer = quiet_trainer(
        folder,
        *tracking,
        *extra,
        ModelCheckpoint(folder / "checkpoints", save_last=True),
        max_epochs=3,
        logger=[
            CSVLogger(folder, name="", version=""),
            WandbLogger(project="test", save_dir=folder, offline=True, id=run_id),
        ],
        log_every_n_steps=1,
        num_sanity_val_steps=1,
        enable_checkpointing=True,
    )
    module = TinyModule()
    try:
        trainer.fit(module, TinyData(), ckpt_path=checkpoint, weights_only=True)
    finally:
        trainer.loggers[1].experiment.finish()
    return trainer, module, probe


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    os.environ.pop("WANDB_MODE", None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    os.environ["WANDB_SILENT"] = "true"
    folder = tmp_path_factory.mktemp("run")
    trainer, module, probe = train(folder)
    return folder, WandbLog.only_one(folder), trainer, module, probe


def test_every_metric_is_logged_at_its_steps(finished):
    log = finished[1]
    for key in STEP:
        assert [step for step, _ in log.series(key)] == list(range(12)), key
    for key in EVALUATION[2:]:
        assert [step for step, _ in log.series(key)] == [3, 7, 11], key
    for key in EVALUATION[:2]:
        assert [step for step, _ in log.series(key)] == [0, 3, 7, 11], key


def test_every_group_is_drawn_over_the_optimiser_step(finished):
    axes = finished[1].metric_axes
    for key in [*STEP, *EVALUATION]:
        assert axes[f"{key.split('/')[0]}/*"] == "trainer/global_step"


def test_the_best_value_so_far_is_logged_at_every_evaluation(finished):
    log = finished[1]
    assert [value for _, value in log.series("best/composite")] == pytest.approx([0.2, 0.6, 0.6])
    losses = [value for _, value in log.series("val/loss/total")]
    running = [min(losses[: i + 1]) for i in range(len(losses))]
    assert [value for _, value in log.series("best/loss/total")] == pytest.approx(running)


def test_the_csv_file_has_the_best_value_too(finished):
    with (finished[0] / "metrics.csv").open() as file:
        values = [row["best/composite"] for row in csv.DictReader(file) if row["best/composite"]]
    assert [float(value) for value in values] == pytest.approx([0.2, 0.6, 0.6])


def test_throughput_is_a_share_and_a_positive_rate(finished):
    log = finished[1]
    assert all(0 <= value <= 1 for _, value in log.series("speed/data_wait_share"))
    assert all(value > 0 for _, value in log.series("speed/images_per_second"))


def test_the_correlation_at_the_end_is_that_of_the_final_weights(finished):
    _, log, _, module, probe = finished
    student, teacher = probe.student_logits(module), probe.teacher_logits
    expected = logit_correlation(student, teacher, probe.same_caption())
    logged = [log.series(key)[-1][1] for key in EVALUATION[:2]]
    assert logged == pytest.approx(expected, abs=1e-5)


def test_the_table_of_confusions_holds_both_models_probabilities(finished):
    folder, log, _, module, probe = finished
    tables = [row for row in log.history if any(key.startswith("probe/confusing_pairs") for key in row)]
    assert [row["trainer/global_step"] for row in tables] == [3, 7, 11]
    files = sorted(folder.rglob("*.table.json"), key=lambda path: path.stat().st_mtime)
    content = json.loads(files[-1].read_text())
    assert len(content["data"]) == 3
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    names = probe.batch["name"]
    teacher, student = probe.teacher_logits.softmax(1), probe.student_logits(module).softmax(1)
    for row in rows:
        i, j = names.index(row["image"]), names.index(row["confused_with"])
        assert i // 2 != j // 2, "equal captions are no confusion"
        assert row["teacher_confused"] == pytest.approx(float(teacher[i, j]), abs=1e-5)
        assert row["student_true"] == pytest.approx(float(student[i, i]), abs=1e-5)
    strengths = [row["teacher_confused"] for row in rows]
    assert strengths == sorted(strengths, reverse=True)
    rivals = teacher.clone()
    for i in range(16):
        for j in range(16):
            if i // 2 == j // 2:
                rivals[i, j] = 0
    assert strengths[0] == pytest.approx(float(rivals.max()), abs=1e-5)


def test_gradient_norms_are_of_the_gradients_before_clipping(tmp_path):
    seen = {}

    class Record(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            gradients = [p.grad.double().flatten() for p in pl_module.student.image.parameters()]
            seen[trainer.global_step] = float(torch.cat(gradients).square().sum().sqrt())

    trainer = quiet_trainer(
        tmp_path, Record(), GradientNorms(), max_steps=3, log_every_n_steps=1, gradient_clip_val=1e-4,
        logger=CSVLogger(tmp_path, name="", version=""),
    )  # fmt: skip
    trainer.fit(TinyModule(), TinyData())
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["gradient_norm/image"]]
    assert {int(row["step"]): float(row["gradient_norm/image"]) for row in rows} == pytest.approx(
        seen, rel=1e-4
    )
    assert min(seen.values()) > 1e-3


def test_no_gradient_norm_is_logged_where_nothing_is_to_be(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = quiet_trainer(tmp_path, GradientNorms(), max_steps=2, logger=logger, log_every_n_steps=0)
    trainer.fit(TinyModule(), TinyData())
    assert trainer.global_step == 2
    assert not any(name.startswith("gradient_norm") for name in trainer.callback_metrics)


@pytest.mark.parametrize("training", [True, False])
def test_towers_are_found_in_a_real_encoder_without_touching_it(training):
    encoder = TimmEncoder(
        trunk="repvit_m0_9",
        trunk_args={"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1]},
        embed_dim=16,
        image_size=32,
        context_length=12,
        text_width=16,
        text_layers=1,
        text_heads=2,
    ).train(training)
    norm = next(module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = towers(encoder)
    name_of = {id(parameter): name for name, parameter in encoder.named_parameters()}
    image, text = ({name_of[id(p)].split(".")[0] for p in found[tower]} for tower in ("image", "text"))
    assert image == {"trunk", "image_projection"}
    assert text == {"text"}
    both = len(found["image"]) + len(found["text"])
    assert both == len(list(encoder.parameters())) - 1, "all but the logit scale"
    assert encoder.training == training
    assert not norm.training
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_tracking_changes_no_weight(finished, tmp_path):
    plain = TinyModule()
    torch.manual_seed(0)
    quiet_trainer(tmp_path, Scores(), max_epochs=3, num_sanity_val_steps=1).fit(plain, TinyData())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, finished[3].state_dict()[name]), name


class TrainerStub(SimpleNamespace):
    is_global_zero, loggers = True, ()

    def __init__(self, data):
        super().__init__(datamodule=data)


def test_making_the_probe_draws_no_random_number():
    module = TinyModule()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    ProbeBatch(size=4).on_train_start(TrainerStub(TinyData()), module)
    assert torch.equal(torch.rand(1), expected)


def test_the_probe_has_a_row_for_each_image_and_a_column_for_each_text():
    module, data, probe = TinyModule(), TinyData(), ProbeBatch(size=4)
    probe.on_train_start(TrainerStub(data), module)
    towers = {"teacher": probe.teacher_logits, "student": probe.student_logits(module)}
    for role, logits in towers.items():
        model = getattr(module, role)
        for i, j in product(range(4), repeat=2):
            image = model.encode_image(data.pairs[i][f"{role}_image"][None])[0]
            text = model.encode_text(data.pairs[j][f"{role}_tokens"][None])[0]
            expected = math.e * float((image * text).sum())  # the towers' logarithm of the scale is 1
            assert float(logits[i, j]) == pytest.approx(expected, abs=1e-4)


def test_a_student_in_training_is_the_same_after_the_probe():
    module, shown = TinyModule(), []
    module.student.image = nn.Sequential(module.student.image, nn.BatchNorm1d(6), nn.BatchNorm1d(6).eval())
    before = {name: value.clone() for name, value in module.student.state_dict().items()}
    trainer = TrainerStub(TinyData())
    trainer.global_step = 0
    trainer.loggers = [SimpleNamespace(log_metrics=lambda _, step: shown.append(step))]
    ProbeBatch(size=4).on_train_start(trainer, module)
    assert shown == [0]
    assert module.student.training
    assert not module.student.image[2].training
    assert all(torch.equal(value, before[name]) for name, value in module.student.state_dict().items())


@pytest.mark.parametrize("loader", [list, lambda: [{}]], ids=["no batch", "an empty batch"])
def test_data_without_validation_pairs_have_no_probe(loader):
    data = TinyData()
    data.val_dataloader = loader
    probe = ProbeBatch(size=4)
    probe.on_train_start(TrainerStub(data), TinyModule())
    assert not probe.batch


def test_a_run_without_teacher_has_no_probe(tmp_path):
    trainer = quiet_trainer(tmp_path, Scores(), ProbeBatch(), max_epochs=1)
    trainer.fit(TinyModule(teacher=False), TinyData())
    assert "val/composite" in trainer.callback_metrics
    assert not any(name.startswith("probe/") for name in trainer.callback_metrics)


def test_sigterm_marks_the_run_preempting_and_resuming_continues_it(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(SIGTERMException):
        train(first, extra=[StopAt(6)])
    log = WandbLog.only_one(first)
    assert "preempting" in log.kinds()
    checkpoint = first / "checkpoints" / "last.ckpt"
    assert run_id_of(checkpoint) == log.run_id

    train(second, run_id=run_id_of(checkpoint), checkpoint=checkpoint)
    resumed = WandbLog.only_one(second)
    assert resumed.run_id == log.run_id
    assert "preempting" not in resumed.kinds()
    assert [step for step, _ in resumed.series("train/loss/total")] == list(range(4, 12))
    # The best so far is the interrupted run's as long as nothing is better.
    assert [value for _, value in resumed.series("best/composite")] == pytest.approx([0.6, 0.6])


@pytest.fixture
def marked(monkeypatch):
    """Set as soon as W&B is told; ends with the handlers that there were before."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    told = threading.Event()
    monkeypatch.setattr(Run, "mark_preempting", lambda _: told.set())
    yield told
    for number, handler in handlers.items():
        signal.signal(number, handler)


class TermIn(Callback):
    """Send a SIGTERM in a hook, and note whether W&B has heard of it before the hook is over."""

    def __init__(self, hook, told):
        self.told, self.heard = told, []
        setattr(self, hook, self.send)

    def send(self, trainer, *_):
        if trainer.sanity_checking or self.heard:
            return
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:  # in an evaluation the handler raises
            self.heard.append(self.told.wait(10))


def test_wandb_hears_of_a_sigterm_within_the_evaluation_in_which_it_comes(tmp_path, marked):
    term = TermIn("on_validation_epoch_end", marked)
    with pytest.raises(SIGTERMException):
        train(tmp_path, extra=[term, LastCheckpoint()])
    assert term.heard == [True]
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4, "the epoch is whole"


def test_wandb_hears_of_a_sigterm_while_test_patients_are_scored(tmp_path, marked):
    class Tested(TinyModule):
        def test_step(self, batch, batch_idx):
            self._loss(batch)

    term = TermIn("on_test_epoch_end", marked)
    trainer = quiet_trainer(
        tmp_path,
        WandbRun(),
        term,
        LastCheckpoint(),
        logger=WandbLogger(project="test", save_dir=tmp_path, offline=True),
        enable_checkpointing=True,
    )
    try:
        with pytest.raises(SIGTERMException):
            trainer.test(Tested(), TinyData().val_dataloader(), verbose=False)
    finally:
        trainer.logger.experiment.finish()
    assert term.heard == [True]


def test_an_ordinary_error_marks_nothing(tmp_path):
    class Fail(Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        train(tmp_path, extra=[Fail()])
    assert "preempting" not in WandbLog.only_one(tmp_path).kinds()


def test_a_checkpoint_without_wandb_has_no_run_id(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "plain.ckpt")
    assert run_id_of(tmp_path / "plain.ckpt") is None
