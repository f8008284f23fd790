"""A resumed run gets the same batches as an uninterrupted one."""

from __future__ import annotations

import json
import os
import tarfile
from functools import partial

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from datamodules import HC18DataModule, PairShardsDataModule
from models import CLIP_MEAN, CLIP_STD, Preprocessing
from tests.conftest import write_hc18
from tests.metrics.two_processes import run_in_two_processes

pytestmark = pytest.mark.faults

SMALL = Preprocessing(16, CLIP_MEAN, CLIP_STD, tokenizer="fetal", context_length=24)


class Recorder(LightningModule):
    """Model of one weight that records epoch, names and pixels of the batches of each loader."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = {"train": [], "val": [], "test": []}

    def note(self, stage, batch):
        if not batch:  # of a split with fewer images than processes
            return
        pixels = batch["student_image"].double().sum(dim=(1, 2, 3)).tolist()
        self.seen[stage].append((self.current_epoch, list(zip(batch["name"], pixels, strict=True))))

    def training_step(self, batch, batch_idx):
        self.note("train", batch)
        return self.weight.sum() * batch["student_image"].mean()

    def validation_step(self, batch, batch_idx):
        self.note("val", batch)

    def test_step(self, batch, batch_idx):
        self.note("test", batch)

    def predict_step(self, batch, batch_idx):
        return batch["name"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def make_trainer(root, **options):
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=root, **options,
    )  # fmt: skip


class SaveAt(Callback):
    """Save a checkpoint in each of these hooks at its step; after the last, stop the run as an interruption would."""

    def __init__(self, folder, moments):
        self.folder, self.left = folder, list(moments)
        for hook in {hook for hook, _ in moments}:
            setattr(self, hook, partial(self._save, hook))

    def _save(self, hook, trainer, *_, **__):
        if self.left and (hook, trainer.global_step) == self.left[0]:
            trainer.save_checkpoint(self.folder / "{}-{}.ckpt".format(*self.left.pop(0)))
            if not self.left:
                raise RuntimeError("interrupted")


def _heads(root, workers, batch_size):
    return HC18DataModule(root=str(root), batch_size=batch_size, num_workers=workers, evaluation_batch_size=4)


def _shards(root, workers, batch_size):
    """Two shards of the training images, read as a stream."""
    images = sorted((root / "training_set").glob("*.png"))
    for number in range(2):
        with tarfile.open(root / f"pairs-{number}.tar", "w") as archive:
            for path in images[number::2]:
                archive.add(path, path.name)
                (root / "caption.txt").write_text(f"head {path.stem}")
                archive.add(root / "caption.txt", path.with_suffix(".txt").name)
    return PairShardsDataModule(
        urls=str(root / "pairs-{0..1}.tar"),
        num_samples=20,
        shuffle_buffer=6,
        hc18_root=str(root),
        batch_size=batch_size,
        num_workers=workers,
    )


def _run(root, workers, callbacks=(), checkpoint=None, batch_size=5, corpus=_heads, max_epochs=3, **options):
    data = corpus(root, workers, batch_size)
    data.bind(SMALL, None)
    module = Recorder()
    trainer = make_trainer(root, max_epochs=max_epochs, callbacks=list(callbacks), **options)
    try:
        trainer.fit(module, data, ckpt_path=checkpoint)
    finally:
        trainer.fit_loop.teardown()  # Lightning leaves the reading processes of a run that dies in validation
    return module.seen["train"]


def interrupt(folder, root, workers, moments, **options):
    """Save checkpoints at these moments of a run, which ends at the last."""
    with pytest.raises(RuntimeError, match="interrupted"):
        _run(root, workers, [SaveAt(folder, moments)], **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_hc18(tmp_path_factory.mktemp("corpus") / "HC18")


@pytest.fixture(scope="module")
def unbroken(root):
    """The batches of a run that nothing interrupts."""
    return _run(root, 0)


def test_epochs_differ_and_contain_each_image_once(unbroken):
    epochs = [[name for epoch, pairs in unbroken if epoch == e for name, _ in pairs] for e in range(3)]
    assert len({len(set(names)) for names in epochs}) == 1
    assert all(len(names) == len(set(names)) for names in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_does_not_depend_on_workers(root, unbroken):
    assert _run(root, 2) == unbroken


@pytest.mark.parametrize(
    ("workers", "hooks"),
    # Workers read ahead, before Lightning tells the sampler its epoch: the moments at which that matters.
    [(0, ["on_validation_end", "on_train_epoch_end"]), (2, ["on_train_epoch_end"])],
)
def test_a_resumed_run_continues_the_order(root, unbroken, tmp_path, workers, hooks):
    end = len(unbroken) // 3 * 2  # of the second of three epochs
    moments = [("on_train_batch_end", end - 2), ("on_train_batch_end", end), *((hook, end) for hook in hooks)]
    options = {"limit_val_batches": 0} if workers else {}
    interrupt(tmp_path, root, workers, moments, **options)
    for hook, step in moments:
        resumed = _run(root, workers, checkpoint=tmp_path / f"{hook}-{step}.ckpt", **options)
        assert resumed == unbroken[step:], (hook, step)
    with pytest.raises(
        ValueError, match="cannot resume within an epoch: batch_size x processes was 5 and is 4"
    ):
        _run(root, 0, checkpoint=tmp_path / f"on_train_batch_end-{end - 2}.ckpt", batch_size=4)


@pytest.mark.parametrize(
    ("workers", "moments"),
    [
        (0, [("on_train_batch_end", 4), ("on_train_batch_end", 6), ("on_train_epoch_end", 8)]),
        (2, [("on_train_batch_end", 6)]),
    ],
)
def test_a_resumed_stream_continues_the_order(root, tmp_path, workers, moments):
    options = {"corpus": _shards, "limit_val_batches": 0}
    unbroken = _run(root, workers, **options)
    assert len(unbroken) == 12
    interrupt(tmp_path, root, workers, moments, **options)
    for hook, step in moments:
        resumed = _run(root, workers, checkpoint=tmp_path / f"{hook}-{step}.ckpt", **options)
        assert resumed == unbroken[step:], (hook, step)


def test_a_limited_epoch_continues_the_order(root, tmp_path):
    unbroken = _run(root, 0, limit_train_batches=3)
    interrupt(tmp_path, root, 0, [("on_train_batch_end", 3)], limit_train_batches=3)
    checkpoint = tmp_path / "on_train_batch_end-3.ckpt"
    assert _run(root, 0, checkpoint=checkpoint, limit_train_batches=3) == unbroken[3:]


@pytest.mark.parametrize(
    ("corpus", "setting", "value", "said"),
    [
        (_heads, "seed", 5, "seed was 0 and is 5"),
        (_heads, "draws", 2, "draws was None and is 2"),
        (_shards, "seed", 5, "seed was 0 and is 5"),
        (_shards, "batch_size", 4, "batch_size was 5 and is 4"),
        (_shards, "num_workers", 2, "workers was 1 and is 2"),
        (_shards, "shuffle_buffer", 7, "shuffle_buffer was 6 and is 7"),
        (_shards, "urls", ["pairs-0.tar"], "shards was 2 and is 1"),
    ],
)
def test_another_setting_that_orders_the_samples_is_rejected(root, corpus, setting, value, said):
    before, now = corpus(root, 0, 5), corpus(root, 0, 5)
    for data in (before, now):
        data.bind(SMALL, None)
        data.setup("fit")
    saved = before.train_dataloader().state_dict()
    now.train_dataloader().load_state_dict(saved)
    setattr(now, setting, value)
    with pytest.raises(ValueError, match=f"cannot resume within an epoch: {said};"):
        now.train_dataloader().load_state_dict(saved)


def _go_on(rank, root, checkpoints, out):
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="localhost", MASTER_PORT="0")
    seen = [_run(root, 0, checkpoint=path, batch_size=2, devices=2, strategy="ddp") for path in checkpoints]
    (out / f"{rank}.json").write_text(json.dumps(seen))


def test_a_run_goes_on_with_the_same_pairs_on_two_processes(root, tmp_path):
    """Within an epoch and at its end, with the same number of pairs in a step."""
    unbroken = _run(root, 0, batch_size=4)
    moments = [("on_train_batch_end", 2), ("on_train_epoch_end", len(unbroken) // 3)]
    interrupt(tmp_path, root, 0, moments, batch_size=4)
    checkpoints = [tmp_path / f"{hook}-{step}.ckpt" for hook, step in moments]
    run_in_two_processes(_go_on, tmp_path, root, checkpoints, tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for (_, step), *seen in zip(moments, *ranks, strict=True):
        joint = [sorted(pair for _, pairs in parts for pair in pairs) for parts in zip(*seen, strict=True)]
        assert joint == [sorted(map(list, pairs)) for _, pairs in unbroken[step:]]
