"""A resumed run gets the same batches as an uninterrupted one."""

from __future__ import annotations

import json
import os
import tarfile

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from datamodules import HC18DataModule, PairShardsDataModule
from models import CLIP_MEAN, CLIP_STD, Preprocessing
from tests.metrics.two_processes import run_in_processes

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
    """Save a checkpoint in one hook at one step, then stop the run as an interruption would."""

    def __init__(self, path, hook, step):
        self.path, self.step = path, step
        setattr(self, hook, self._save)

    def _save(self, trainer, *_, **__):
        if trainer.global_step == self.step and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)
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


_UNBROKEN = []


@pytest.fixture
def unbroken(tiny_hc18):
    """The batches of a run that nothing interrupts, which is the same for every test."""
    if not _UNBROKEN:
        _UNBROKEN.extend(_run(tiny_hc18, 0))
    return list(_UNBROKEN)


_STREAMS = {}


@pytest.fixture
def unbroken_stream(tiny_hc18):
    """Return the same of a stream of shards, by number of workers."""

    def run(workers):
        if workers not in _STREAMS:
            _STREAMS[workers] = _run(tiny_hc18, workers, corpus=_shards)
        return list(_STREAMS[workers])

    return run


def test_epochs_differ_and_contain_each_image_once(unbroken):
    epochs = [[name for epoch, pairs in unbroken if epoch == e for name, _ in pairs] for e in range(3)]
    assert len({len(set(names)) for names in epochs}) == 1
    assert all(len(names) == len(set(names)) for names in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_does_not_depend_on_workers(tiny_hc18, unbroken):
    assert _run(tiny_hc18, 2) == unbroken


INTERRUPTIONS = [
    ("on_train_batch_end", "middle"),
    ("on_train_batch_end", "last batch"),
    ("on_validation_end", "end"),
    ("on_train_epoch_end", "end"),
]


@pytest.mark.parametrize(
    ("workers", "hook", "batches_in"),
    # Workers read ahead, before Lightning tells the sampler its epoch: the cases in which that matters.
    [(0, *case) for case in INTERRUPTIONS] + [(2, *INTERRUPTIONS[number]) for number in (0, 1, 3)],
)
def test_a_resumed_run_continues_the_order(tiny_hc18, unbroken, tmp_path, workers, hook, batches_in):
    step = len(unbroken) // 3 * 2 - (
        2 if batches_in == "middle" else 0
    )  # in or after the second of three epochs
    path = tmp_path / "interrupted.ckpt"
    with pytest.raises(RuntimeError, match="interrupted"):
        _run(tiny_hc18, workers, [SaveAt(path, hook, step)])
    resumed = _run(tiny_hc18, workers, checkpoint=path)
    assert resumed == unbroken[step:]


@pytest.mark.parametrize(
    ("workers", "hook", "step"),
    [
        (0, "on_train_batch_end", 6),
        (0, "on_train_batch_end", 4),
        (0, "on_train_epoch_end", 8),
        (2, "on_train_batch_end", 6),
    ],
)
def test_a_resumed_stream_continues_the_order(tiny_hc18, tmp_path, unbroken_stream, workers, hook, step):
    unbroken = unbroken_stream(workers)
    assert len(unbroken) == 12
    path = tmp_path / "interrupted.ckpt"
    with pytest.raises(RuntimeError, match="interrupted"):
        _run(tiny_hc18, workers, [SaveAt(path, hook, step)], corpus=_shards)
    assert _run(tiny_hc18, workers, checkpoint=path, corpus=_shards) == unbroken[step:]


def test_a_limited_epoch_continues_the_order(tiny_hc18, tmp_path):
    unbroken = _run(tiny_hc18, 0, limit_train_batches=3)
    path = tmp_path / "interrupted.ckpt"
    with pytest.raises(RuntimeError, match="interrupted"):
        _run(tiny_hc18, 0, [SaveAt(path, "on_train_batch_end", 3)], limit_train_batches=3)
    assert _run(tiny_hc18, 0, checkpoint=path, limit_train_batches=3) == unbroken[3:]


def test_another_batch_size_within_an_epoch_is_rejected(tiny_hc18, tmp_path):
    path = tmp_path / "interrupted.ckpt"
    with pytest.raises(RuntimeError, match="interrupted"):
        _run(tiny_hc18, 0, [SaveAt(path, "on_train_batch_end", 1)])
    with pytest.raises(
        ValueError, match="cannot resume within an epoch: batch_size x processes was 5 and is 4"
    ):
        _run(tiny_hc18, 0, checkpoint=path, batch_size=4)


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
def test_another_setting_that_orders_the_samples_is_rejected(tiny_hc18, corpus, setting, value, said):
    before, now = corpus(tiny_hc18, 0, 5), corpus(tiny_hc18, 0, 5)
    for data in (before, now):
        data.bind(SMALL, None)
        data.setup("fit")
    saved = before.train_dataloader().state_dict()
    now.train_dataloader().load_state_dict(saved)
    setattr(now, setting, value)
    with pytest.raises(ValueError, match=f"cannot resume within an epoch: {said};"):
        now.train_dataloader().load_state_dict(saved)


def _go_on(rank, world, root, path, out):
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="localhost", MASTER_PORT="0")
    seen = _run(root, 0, checkpoint=path, batch_size=4 // world, devices=world, strategy="ddp")
    (out / f"{rank}.json").write_text(json.dumps(seen))


@pytest.mark.parametrize(
    ("world", "hook", "step"), [(2, "on_train_batch_end", 2), (4, "on_train_epoch_end", None)]
)
def test_a_run_goes_on_with_the_same_pairs_on_more_processes(tiny_hc18, tmp_path, world, hook, step):
    """Within an epoch and at its end, with the same number of pairs in a step."""
    unbroken = _run(tiny_hc18, 0, batch_size=4)
    step = len(unbroken) // 3 if step is None else step
    path = tmp_path / "interrupted.ckpt"
    with pytest.raises(RuntimeError, match="interrupted"):
        _run(tiny_hc18, 0, [SaveAt(path, hook, step)], batch_size=4)
    run_in_processes(world, _go_on, tmp_path, world, tiny_hc18, path, tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world)]
    joint = [sorted(pair for _, pairs in parts for pair in pairs) for parts in zip(*ranks, strict=True)]
    assert joint == [sorted(map(list, pairs)) for _, pairs in unbroken[step:]]
