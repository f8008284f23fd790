"""Plane evaluation is timed as the data module reads, on the same images for every way."""

import numpy as np
import pytest
import torch

from benchmarks import plane_evaluation
from benchmarks._material import phantom_towers
from benchmarks._record import key
from benchmarks.plane_evaluation import ours, rows_of, timed_images


@pytest.mark.parametrize(("accelerator", "workers", "batches"), [(False, 0, 1), (True, 2, 16)])
def test_every_way_embeds_the_images_of_the_data_modules_loader(
    accelerator, workers, batches, tmp_path, monkeypatch
):
    monkeypatch.delenv("HC18_ROOT", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    monkeypatch.setattr(plane_evaluation.os, "cpu_count", lambda: 2)
    model = phantom_towers()[0].eval()
    records, loader, _ = timed_images(model, tmp_path, 4)
    assert (loader.num_workers, len(loader), loader.batch_size) == (workers, batches, 4)
    assert [record.image for record in loader.dataset.records] == [record.image for record in records]
    embedded = []
    monkeypatch.setattr(plane_evaluation, "encode_images", lambda _, images: embedded.append(len(images)))
    ours(model, loader)
    assert embedded == [4] * batches


def test_the_key_of_a_row_does_not_depend_on_the_workers():
    tables = []
    for workers in (0, 2):
        loader = torch.utils.data.DataLoader([0] * 4, batch_size=4, num_workers=workers)
        times = {"authors": np.array([4.0]), "encoder": np.array([1.8]), "ours": np.array([2.0])}
        tables.append(rows_of(times, loader, 4, "heads", 4))
        assert f"{workers} workers" in tables[-1][0]["note"]
    assert [key(row) for row in tables[0]] == [key(row) for row in tables[1]]
    assert [row["value"] and row["value"]["median"] for row in tables[0]] == [pytest.approx(0.9), 2.0, None]
