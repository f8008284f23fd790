"""Plane evaluation is timed as the data module reads, on the same images whichever way, under keys that stay."""

import numpy as np
import pytest
import torch

from benchmarks import plane_evaluation
from benchmarks._material import phantom_towers
from benchmarks._record import key
from benchmarks._turns import in_turns
from benchmarks.plane_evaluation import PREFETCHED, ours, rows_of, timed_images


@pytest.fixture(scope="module")
def model():
    return phantom_towers()[0].eval()


@pytest.fixture
def material(model, tmp_path, monkeypatch):
    monkeypatch.delenv("HC18_ROOT", raising=False)

    def make(accelerator):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
        return timed_images(model, tmp_path, 2, {"evaluation_batch_size": 4})

    return make


@pytest.mark.parametrize(("accelerator", "workers"), [(False, 0), (True, 2)])
def test_the_data_module_chooses_the_workers_and_the_images_are_those_of_all_ways(
    accelerator, workers, material
):
    timed, records, loader, _ = material(accelerator)
    assert loader.num_workers == workers
    assert len(records) == 4 * timed
    assert len(loader) >= timed + 1 + workers * PREFETCHED, "reading goes on beside the last timed batch"
    read = [record.image for record in loader.dataset.records]
    first = 4 if workers else 0
    assert sorted(read[first : first + 4 * timed]) == sorted(record.image for record in records)


def test_only_the_timed_batches_count(model, material, monkeypatch):
    timed, _, loader, _ = material(False)
    clock = iter(np.arange(0.0, 100.0, 1.0))
    embedded = []
    monkeypatch.setattr(plane_evaluation, "encode_images", lambda _, images: embedded.append(len(images)))
    monkeypatch.setattr(plane_evaluation.time, "perf_counter", lambda: next(clock))
    rate, waited = ours(model, loader, timed)
    assert embedded == [4] * timed
    # Two ticks a batch, one of them for reading it.
    assert (rate, waited) == (4 * timed / (2 * timed), 0.5)


def test_a_key_says_nothing_of_the_workers(material):
    tables = []
    for accelerator in (False, True):
        _, _, loader, _ = material(accelerator)
        speed = {name: np.array([1.0, 2.0]) for name in ("authors", "encoder", "ours")}
        tables.append(rows_of(speed, loader, "4 images a turn", 4, {"waiting": 0.1, "decoding": 0.1}))
    assert [key(row) for row in tables[0]] == [key(row) for row in tables[1]]
    assert "0 workers" in tables[0][0]["note"]
    assert "2 workers" in tables[1][0]["note"]


def test_turns_alternate_and_keep_what_each_way_returns():
    order = []

    def way(name):
        return lambda: order.append(name) or len(order)

    assert in_turns({"a": way("a"), "b": way("b")}, 3) == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert "".join(order) == "abbaab"
