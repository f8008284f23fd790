"""Random numbers of a training step depend on seed, epoch, batch and process, and on nothing before it."""

from types import SimpleNamespace

import torch

from callbacks import StepSeed


def test_every_batch_of_every_epoch_and_process_has_random_numbers_of_its_own():
    def drawn(seed=0, epoch=0, batch=0, rank=0):
        trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
        StepSeed(seed).on_train_batch_start(trainer, None, None, batch)
        return torch.rand(4).tolist()

    with torch.random.fork_rng(devices=[]):
        found = [drawn(), drawn(seed=1), drawn(epoch=1), drawn(batch=1), drawn(rank=1), drawn(1, 1, 1, 1)]
        assert len(set(map(tuple, found))) == len(found)
        torch.rand(7)
        assert drawn() == found[0], "whatever was drawn before"
