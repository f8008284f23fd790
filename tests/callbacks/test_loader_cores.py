"""Threads of training beside the loader's workers, and outside training."""

import pytest
import torch
from lightning import Callback, LightningModule
from torch.utils.data import DataLoader

from callbacks import LoaderCores
from tests.callbacks.tiny import quiet_trainer


class Regression(LightningModule):
    """Fits numbers and records the threads of every step."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(1, 1), []

    def training_step(self, batch, _):
        self.seen.append(("training", torch.get_num_threads()))
        return self.layer(batch).mean()

    def validation_step(self, batch, _):
        self.seen.append(("validation", torch.get_num_threads()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture(params=[(4, 1, 3), (4, 0, 4), (2, 2, 1), (1, 1, 1)], ids=str)
def threads(request):
    """(Threads of the process, workers of the loader, expected threads of training)."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param[0])
    yield request.param
    torch.set_num_threads(before)


def loader(workers):
    return DataLoader(torch.ones(4, 1), batch_size=2, num_workers=workers)


@pytest.mark.parametrize("instances", [1, 2])
def test_workers_keep_their_cores_in_training_only(tmp_path, threads, instances):
    own, workers, expected = threads
    module = Regression()
    callbacks = [LoaderCores() for _ in range(instances)]  # the preset's, and one of the user's
    trainer = quiet_trainer(tmp_path, *callbacks, max_epochs=2, num_sanity_val_steps=0)
    trainer.fit(module, loader(workers), loader(0))
    epoch = [("training", expected)] * 2 + [("validation", own)] * 2
    assert module.seen == epoch * 2
    assert torch.get_num_threads() == own


class Failing(Callback):
    def on_train_batch_end(self, *_):
        raise RuntimeError("stop")


def test_an_error_restores_the_threads(tmp_path, threads):
    own, workers, _ = threads
    with pytest.raises(RuntimeError, match="stop"):
        quiet_trainer(tmp_path, LoaderCores(), Failing(), max_epochs=1).fit(Regression(), loader(workers))
    assert torch.get_num_threads() == own
