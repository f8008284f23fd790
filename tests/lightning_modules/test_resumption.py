"""Runs that are interrupted, killed or finished, and what they go on from: weights equal bit for bit."""

import errno
import functools
import itertools
import signal
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningDataModule
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import Dataset

from callbacks import (
    BestCheckpoint,
    EvaluateLastEpoch,
    LastCheckpoint,
    OffDiagonalSchedule,
    StepSeed,
    Throughput,
)
from callbacks.safety import checkpoints
from datamodules.pairs.loaders import ResumableLoader, resume_position
from datamodules.pairs.sampler import EpochSampler
from lightning_modules import DistillationModule
from losses import SRKDLoss
from tests.callbacks.tiny import quiet_trainer
from tests.lightning_modules.conftest import PairSet, TinyEncoder

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("handlers")]

BATCHES = 6  # of an epoch: 24 pairs in fours


class Keyed(Dataset):
    """The pairs by (epoch, index), as a resumable sampler asks for them."""

    def __init__(self):
        self.pairs = PairSet()

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, key):
        return self.pairs[key[1]]


class Pairs(LightningDataModule):
    def train_dataloader(self):
        dataset = Keyed()
        sampler = EpochSampler(len(dataset), seed=0)
        epoch, batch = resume_position(self.trainer)
        sampler.start_at(epoch, batch * 4)
        return ResumableLoader(dataset, batch_size=4, sampler=sampler, order={"batch_size": 4})

    def val_dataloader(self):
        return torch.utils.data.DataLoader(PairSet(8), batch_size=4)

    test_dataloader = val_dataloader


class Scores(Callback):
    """Log a score that falls from one evaluation to the next; remember epoch and scheduled weight of each."""

    def __init__(self):
        self.epochs = []

    def on_validation_epoch_end(self, trainer, pl_module):
        self.epochs.append((trainer.current_epoch, pl_module.loss.off_diagonal_weight))
        pl_module.log("score", -float(trainer.current_epoch))


class Signal(Callback):
    """Send a signal in the middle of one training step: during its `batch`-th backward pass."""

    def __init__(self, signum, batch):
        self.signum, self.batch, self.seen = signum, batch, 0

    def on_before_backward(self, trainer, pl_module, loss):
        self.seen += 1
        if self.seen == self.batch + 1:
            signal.raise_signal(self.signum)


def fit(folder, *extra, checkpoint=None, epochs=2, **kwargs):
    module = DistillationModule(
        TinyEncoder(seed=1, dropout=0.3),
        TinyEncoder(embed_dim=12, seed=2),
        **{"loss": SRKDLoss(), "learning_rate": 1e-2, "warmup_steps": 2, **kwargs.pop("module", {})},
    )
    best = BestCheckpoint(folder / "checkpoints", "best", "score", mode="max", enable_version_counter=False)
    trainer = quiet_trainer(
        folder,
        OffDiagonalSchedule(),
        StepSeed(0),
        EvaluateLastEpoch(),
        *extra,
        Scores(),
        best,
        LastCheckpoint(),
        max_epochs=epochs,
        accumulate_grad_batches=2,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        **kwargs,
        enable_checkpointing=True,
    )
    trainer.module = module
    trainer.fit(module, Pairs(), ckpt_path=checkpoint, weights_only=True)
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the finished, unbroken run of given settings; each is trained once."""
    return functools.cache(lambda **settings: fit(tmp_path_factory.mktemp("whole"), **settings))


def interrupt(folder, signum, batch, **kwargs):
    """Run until a signal ends it, and return the checkpoint that is left."""
    with pytest.raises(SystemExit if signum == signal.SIGINT else SIGTERMException):
        fit(folder, Signal(signum, batch), **kwargs)
    return folder / "checkpoints" / "last.ckpt"


def weights(trainer):
    return trainer.module.student.state_dict()


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def saved(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("signum", "batch"),
    [*((signal.SIGINT, batch) for batch in (0, 1, 5, 11)), (signal.SIGTERM, 5), (signal.SIGTERM, 8)],
)
def test_a_run_interrupted_anywhere_equals_an_unbroken_one(whole, tmp_path, capsys, signum, batch):
    """Within an accumulation, at its end, in the last step of an epoch and of the run."""
    path = interrupt(tmp_path, signum, batch)
    assert saved(path)["global_step"] == batch // 2 + 1, "the step that was begun is done"
    assert f"--ckpt_path={path}" in capsys.readouterr().out
    rest = fit(tmp_path, checkpoint=path)
    assert rest.global_step == whole().global_step == BATCHES
    assert_same(weights(whole()), weights(rest))
    moments = [run.optimizers[0].state_dict()["state"] for run in (whole(), rest)]
    for key, values in moments[0].items():
        assert_same(values, moments[1][key])


class InEvaluation(Callback):
    """Send a signal within one evaluation, which must not go on."""

    def __init__(self, signum, number):
        self.signum, self.number, self.seen = signum, number, 0

    def on_validation_epoch_end(self, trainer, pl_module):
        self.seen += 1
        if self.seen == self.number:
            signal.raise_signal(self.signum)
            raise AssertionError("the evaluation went on")


@pytest.mark.parametrize(
    ("signum", "number", "settings"),
    [
        (signal.SIGINT, 1, {}),
        (signal.SIGTERM, 2, {}),
        (signal.SIGINT, 2, {"val_check_interval": 2}),
        (signal.SIGTERM, 1, {"check_val_every_n_epoch": 5}),
    ],
)
def test_a_run_stopped_within_an_evaluation_resumes_with_it(whole, tmp_path, signum, number, settings):
    unbroken = whole(**settings)
    with pytest.raises(SystemExit if signum == signal.SIGINT else SIGTERMException):
        fit(tmp_path, InEvaluation(signum, number), **settings)
    rest = fit(tmp_path, checkpoint=tmp_path / "checkpoints" / "last.ckpt", **settings)
    assert rest.global_step == unbroken.global_step
    assert_same(weights(unbroken), weights(rest))
    all_of_it, the_rest = (
        next(callback.epochs for callback in run.callbacks if isinstance(callback, Scores))
        for run in (unbroken, rest)
    )
    assert the_rest == all_of_it[number - 1 :]


def test_the_logit_scale_is_clamped_in_an_interrupted_runs_checkpoint(tmp_path):
    path = interrupt(tmp_path, signal.SIGINT, 1, module={"max_logit_scale": 2.0, "learning_rate": 1.0})
    assert float(saved(path)["state_dict"]["student.scale"].exp()) <= 2.0 + 1e-5


def test_a_run_resumed_in_its_last_epoch_is_still_evaluated(whole, tmp_path):
    path = interrupt(tmp_path, signal.SIGINT, 2, epochs=1, check_val_every_n_epoch=5)
    rest = fit(tmp_path, checkpoint=path, epochs=1, check_val_every_n_epoch=5)
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()
    assert_same(weights(rest), weights(whole(epochs=1, check_val_every_n_epoch=5)))


def test_a_run_that_begins_anew_leaves_no_best_weights_of_the_run_before(tmp_path):
    fit(tmp_path)
    best = tmp_path / "checkpoints" / "best.ckpt"
    assert best.is_file()
    path = interrupt(tmp_path, signal.SIGTERM, 6)
    assert saved(best)["global_step"] == 3, "of this run's own first epoch"
    fit(tmp_path, checkpoint=path, limit_val_batches=0)
    assert best.is_file(), "a resumed run keeps what it selected before"
    fit(tmp_path, limit_val_batches=0, fast_dev_run=True)
    assert best.is_file(), "a trial changes nothing"
    fit(tmp_path, limit_val_batches=0, epochs=1)
    assert [file.name for file in best.parent.iterdir()] == ["last.ckpt"], "nor a predecessor"


def test_a_trial_of_a_few_batches_leaves_no_checkpoint(tmp_path):
    fit(tmp_path, fast_dev_run=True)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_file_system_without_links_keeps_the_predecessor_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    fit(tmp_path, limit_val_batches=0)
    steps = {file.stem: saved(file)["global_step"] for file in tmp_path.rglob("*.ckpt")}
    assert steps == {"previous": 3, "last": 6}


@pytest.mark.parametrize(
    ("signals", "requeued"),
    [
        ([signal.SIGUSR1, signal.SIGTERM], ["7"]),
        ([signal.SIGTERM, signal.SIGUSR1], []),
        ([signal.SIGTERM], []),
    ],
)
def test_the_first_signal_decides_whether_slurm_runs_the_job_again(tmp_path, monkeypatch, signals, requeued):
    class Several(Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            for signum in signals:
                signal.raise_signal(signum)

    found = []
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(checkpoints, "requeue", found.append)
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(SIGTERMException):
        fit(tmp_path, Several())
    signal.signal(signal.SIGUSR1, before)
    assert found == requeued


@pytest.mark.parametrize(
    ("script", "out", "err"),
    [
        ('test "$*" = "requeue 7"', "requeued SLURM job 7\n", ""),
        ("echo no such job >&2; exit 1", "", "warning: SLURM job 7 was not requeued (no such job)\n"),
    ],
)
def test_slurm_is_asked_to_run_a_job_again(tmp_path, monkeypatch, capsys, script, out, err):
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    checkpoints.requeue("7")
    assert tuple(capsys.readouterr()) == (out, err)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_last_step_stops_before_the_test(tmp_path, signum):
    class AtEnd(Callback):
        def on_train_end(self, trainer, pl_module):
            signal.raise_signal(signum)

    tested = []
    trainer = fit(tmp_path, AtEnd(), epochs=1)
    trainer.module.test_step = lambda *_: tested.append(1)
    with pytest.raises(SystemExit if signum == signal.SIGINT else SIGTERMException):
        trainer.test(trainer.module, Pairs(), verbose=False)
    assert not tested


def test_the_clock_of_a_run_resumed_within_an_epoch_is_started(tmp_path, monkeypatch):
    path = interrupt(tmp_path, signal.SIGINT, 2, epochs=1)
    seconds = itertools.count(10**9)  # a clock that has run for years, and goes on by a second a look
    monkeypatch.setattr("callbacks.tracking.step_metrics.perf_counter", lambda: float(next(seconds)))
    rest = fit(tmp_path, Throughput(), checkpoint=path, epochs=1)
    assert rest.callback_metrics["speed/images_per_second"] > 1
    assert 0 <= rest.callback_metrics["speed/data_wait_share"] <= 1


def test_the_last_checkpoint_holds_the_last_weights_though_the_score_fell(whole):
    run = whole(epochs=3)
    folder = Path(run.default_root_dir) / "checkpoints"
    best, last = (saved(folder / f"{name}.ckpt") for name in ("best", "last"))
    assert best["global_step"] == 3
    assert last["global_step"] == 9
    own = {f"student.{name}": value for name, value in weights(run).items()}
    assert_same(own, {name: value for name, value in last["state_dict"].items() if name in own})


class Die(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            raise RuntimeError("out of memory")


def test_a_killed_run_goes_on_from_its_last_epoch_and_remembers_its_best(whole, tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, Die(), epochs=3)
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert saved(path)["global_step"] == 6
    rest = fit(tmp_path, checkpoint=path, epochs=3)
    assert_same(weights(whole(epochs=3)), weights(rest))
    assert saved(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == 3


def test_a_run_goes_on_from_the_predecessor_of_its_last_checkpoint_to_the_same_weights(whole, tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, Die(), epochs=3)
    last, previous = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    assert saved(last)["global_step"] == saved(previous)["global_step"] == 6, (
        "after and before the evaluation"
    )
    assert not last.samefile(previous)
    last.unlink()
    rest = fit(tmp_path, checkpoint=previous, epochs=3)
    assert_same(weights(whole(epochs=3)), weights(rest))


def test_an_evaluation_within_an_epoch_leaves_a_last_checkpoint(whole, tmp_path):
    class Die(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 4:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, Die(), val_check_interval=2)
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert saved(path)["global_step"] == 2
    rest = fit(tmp_path, checkpoint=path, val_check_interval=2)
    assert_same(weights(rest), weights(whole(val_check_interval=2)))


def test_a_finished_run_has_nothing_left_to_train_and_gives_both_signals_back(tmp_path):
    whole = fit(tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "LastCheckpoint" not in getattr(signal.getsignal(signal.SIGTERM), "__qualname__", "")
    again = fit(tmp_path, checkpoint=tmp_path / "checkpoints" / "last.ckpt")
    assert_same(weights(whole), weights(again))
    assert Path(again.checkpoint_callback.best_model_path).name == "best.ckpt"


def test_a_second_ctrl_c_stops_at_once_and_leaves_the_last_checkpoint_as_it_is(whole, tmp_path):
    class Twice(Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            if trainer.global_step == 4:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit):
        fit(tmp_path, Twice())
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert saved(path)["global_step"] == 3
    assert_same(weights(fit(tmp_path, checkpoint=path)), weights(whole()))
