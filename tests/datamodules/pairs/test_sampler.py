"""Epochs are shared by the processes without overlap and can start in the middle."""

import pytest

from datamodules.pairs.sampler import EpochSampler


@pytest.mark.parametrize(("size", "world"), [(103, 1), (103, 2), (103, 4), (5, 3)])
def test_processes_share_an_epoch_without_overlap(monkeypatch, size, world):
    joint = []
    for rank in range(world):
        monkeypatch.setattr("datamodules.pairs.sampler.process_rank", lambda rank=rank: (rank, world))
        sampler = EpochSampler(size, seed=3)
        sampler.set_epoch(2)
        part = list(sampler)
        assert len(part) == len(sampler) == size // world
        assert all(epoch == 2 for epoch, _ in part)
        joint.append([index for _, index in part])
    assert len({index for part in joint for index in part}) == size // world * world
    monkeypatch.setattr("datamodules.pairs.sampler.process_rank", lambda: (0, 1))
    alone = EpochSampler(size, seed=3)
    alone.set_epoch(2)
    single = [index for _, index in alone]
    # Step by step, all processes together see what one process with the joint batch sees.
    assert [index for step in zip(*joint, strict=True) for index in step] == single[: size // world * world]


def test_starting_late_holds_for_one_epoch_only():
    sampler = EpochSampler(10, seed=0)
    sampler.set_epoch(4)
    whole = list(sampler)
    sampler.start_at(4, 6)
    assert list(sampler) == whole[6:]
    assert len(sampler) == 10
    sampler.set_epoch(5)
    assert len(list(sampler)) == 10
