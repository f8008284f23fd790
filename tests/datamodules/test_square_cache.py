"""The cache gives what decoding gives, in any process, and notices changed files."""

import pytest
import torch

from datamodules.pair_dataset import PairDataset
from datamodules.pair_sample import PairBuilder
from datamodules.record import Record
from datamodules.square_cache import SquareCache
from datamodules.transforms import Augmentation
from models import Preprocessing
from tests.conftest import write_image

VIEW = Preprocessing(32, (0.5,) * 3, (0.25,) * 3, tokenizer="fetal", context_length=16)


@pytest.fixture
def records(tmp_path):
    sizes = [(90, 60), (80, 120), (30, 20), (70, 70)]
    paths = [tmp_path / f"{i}.png" for i in range(len(sizes))]
    for seed, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        write_image(path, seed, size)
    return [Record("planes", path.name, path, str(i), plane="femur") for i, path in enumerate(paths)]


def dataset(records, cache=None):
    builder = PairBuilder(VIEW, None, Augmentation())
    return PairDataset(
        records, builder, 3, "raise", cache and SquareCache(cache, records, builder.working_side)
    )


def test_first_and_later_reads_are_bit_identical_to_decoding(records, tmp_path):
    plain, cached = dataset(records), dataset(records, tmp_path / "cache")
    for epoch in (0, 0, 1):
        for index in range(len(records)):
            expected, got = plain[epoch, index], cached[epoch, index]
            assert torch.equal(expected["student_image"], got["student_image"])
            assert expected["student_text"] == got["student_text"]


def test_a_second_read_opens_no_image(records, tmp_path, monkeypatch):
    cached = dataset(records, tmp_path / "cache")
    first = cached[0, 1]["student_image"]
    monkeypatch.setattr("datamodules.pair_dataset.read_image", lambda _: pytest.fail("decoded again"))
    assert torch.equal(first, cached[0, 1]["student_image"])


def test_workers_share_it(records, tmp_path):
    loader = torch.utils.data.DataLoader(
        dataset(records, tmp_path / "cache"),
        sampler=[(0, i) for i in range(4)] * 2,
        num_workers=2,
        collate_fn=list,
    )
    images = [batch[0]["student_image"] for batch in loader]
    assert all(torch.equal(images[i], images[i + 4]) for i in range(4))


def test_a_changed_image_is_decoded_anew(records, tmp_path):
    before = dataset(records, tmp_path / "cache")[0, 0]["student_image"]
    write_image(records[0].image, 99, (90, 61))
    assert not torch.equal(before, dataset(records, tmp_path / "cache")[0, 0]["student_image"])
