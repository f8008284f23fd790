"""Bad samples are named once, counted, and too many of them end the training."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule

from callbacks.tracking.skipped_samples import SkippedSamples
from datamodules import HC18DataModule
from models import CLIP_MEAN, CLIP_STD, Preprocessing
from tests.callbacks.tiny import quiet_trainer

SMALL = Preprocessing(16, CLIP_MEAN, CLIP_STD, tokenizer="fetal", context_length=24)


class OneWeight(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.sizes = []

    def training_step(self, batch, batch_idx):
        self.sizes.append(len(batch["index"]))
        return self.weight.sum() * batch["student_image"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def _fit(root, max_share, on_error="skip", workers=0):
    data = HC18DataModule(root=str(root), batch_size=6, num_workers=workers, on_error=on_error)
    data.bind(SMALL, None)
    callback, module = SkippedSamples(max_share), OneWeight()
    trainer = quiet_trainer(root, callback, max_epochs=2, limit_val_batches=0)
    trainer.fit(module, data)
    return callback, module, trainer


@pytest.fixture
def corrupt(tiny_hc18):
    data = HC18DataModule(root=str(tiny_hc18))
    bad = [record.image for record in data.split("train")[:2]]
    for path in bad:
        path.write_bytes(b"not an image")
    return tiny_hc18, bad


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_images_are_replaced_named_and_counted(corrupt, caplog, workers):
    root, bad = corrupt
    with caplog.at_level(logging.WARNING, logger="callbacks.tracking.skipped_samples"):
        callback, module, trainer = _fit(root, 0.5, workers=workers)
    for path in bad:
        assert sum(str(path) in line for line in caplog.messages) == 1
    assert list(callback.counts.values()) == [1, 1]
    assert not any(path.name in str(callback.state_dict()) for path in bad)
    assert trainer.callback_metrics["train/skipped"] == 2
    assert set(module.sizes) == {6}
    restored = SkippedSamples()
    restored.load_state_dict(callback.state_dict())
    assert restored.counts == callback.counts


def test_a_shard_weighs_as_much_as_its_samples():
    callback = SkippedSamples(max_share=0.1)
    trainer, logged = SimpleNamespace(num_training_batches=10), {}
    module = SimpleNamespace(device="cpu", log=lambda name, value, **_: logged.update({name: value}))
    batch = {"index": torch.arange(6), "skipped": [("a.tar", 6), ("a.tar", 6)]}
    for _ in range(2):  # six of sixty are a tenth, and no more when the shard comes round again
        callback.on_train_batch_end(trainer, module, None, batch, 0)
    assert logged == {"train/skipped": 6.0}
    with pytest.raises(ValueError, match=r"7 bad samples in an epoch of 60 .* the last: b.png"):
        callback.on_train_batch_end(trainer, module, None, batch | {"skipped": [("b.png", 1)]}, 0)


def test_the_share_is_that_of_one_epoch_and_a_sample_is_named_once(caplog):
    callback = SkippedSamples(max_share=0.1)
    trainer = SimpleNamespace(num_training_batches=1)
    module = SimpleNamespace(device="cpu", log=lambda *_, **__: None)
    epochs = [["a.png"], ["b.png"], ["a.png", "b.png"]]  # at most one of ten is a tenth
    with caplog.at_level(logging.WARNING, logger="callbacks.tracking.skipped_samples"):
        for epoch in epochs[:2]:
            callback.on_train_epoch_start(trainer, module)
            batch = {"index": torch.arange(10), "skipped": [(name, 1) for name in epoch]}
            callback.on_train_batch_end(trainer, module, None, batch, 0)
        callback.on_train_epoch_start(trainer, module)
        batch["skipped"] = [(name, 1) for name in epochs[2]]
        with pytest.raises(ValueError, match=r"2 bad samples in an epoch of 10"):
            callback.on_train_batch_end(trainer, module, None, batch, 0)
    assert caplog.messages == ["skipped: a.png", "skipped: b.png"]


def test_too_many_stop_the_training(corrupt):
    with pytest.raises(
        ValueError, match=r"[12] bad samples in an epoch of \d+ exceed the tolerated share of 0.01"
    ):
        _fit(corrupt[0], 0.01)


@pytest.mark.parametrize("workers", [0, 1])
def test_raise_names_the_file_in_one_line(corrupt, workers):
    with pytest.raises(
        ValueError, match=r"^\S+_HC.png: cannot be read as an image \(its content is none of PNG"
    ):
        _fit(corrupt[0], 0.5, on_error="raise", workers=workers)


def test_a_share_is_a_share():
    with pytest.raises(ValueError, match="max_share must lie in 0-1"):
        SkippedSamples(5)
