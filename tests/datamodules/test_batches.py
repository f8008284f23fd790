"""Contents of batches; every evaluated image counts once."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from datamodules import FetalPlanesDataModule, HC18DataModule
from datamodules.evaluation import dataset as evaluation
from datamodules.pairs.image_reading import read_image
from datamodules.pairs.sample import text_id
from datamodules.pairs.transforms import Augmentation, normalise
from models import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing, build_tokenizer
from models.preprocessing import resize_padded
from tests.conftest import write_image

STUDENT = Preprocessing(32, IMAGENET_MEAN, IMAGENET_STD, tokenizer="fetal", context_length=24)
TEACHER = Preprocessing(24, CLIP_MEAN, CLIP_STD, tokenizer="fetal", context_length=24)


def _hc18(root, **kwargs):
    return HC18DataModule(root=str(root), **{"batch_size": 6, "num_workers": 0, **kwargs})


def _planes(root, **kwargs):
    return FetalPlanesDataModule(root=str(root), **{"batch_size": 8, "num_workers": 0, **kwargs})


def test_a_training_batch_holds_what_its_description_says(tiny_hc18):
    data = _hc18(tiny_hc18)
    data.bind(STUDENT, TEACHER)
    batch = next(iter(data.train_dataloader()))
    assert batch["student_image"].shape == (6, 3, 32, 32)
    assert batch["teacher_image"].shape == (6, 3, 24, 24)
    assert batch["student_image"].dtype == batch["teacher_image"].dtype == torch.float32
    assert batch["student_tokens"].shape == batch["teacher_tokens"].shape == (6, 24)
    assert batch["caption_id"].dtype == batch["index"].dtype == batch["student_tokens"].dtype == torch.int64
    assert batch["plane"] == ["brain"] * 6
    assert batch["brain_plane"] == [""] * 6
    assert batch["skipped"] == []
    records = {record.name: record for record in data.records}
    for name, index, hc, size in zip(
        batch["name"], batch["index"], batch["hc_mm"], batch["pixel_size_mm"], strict=True
    ):
        assert data.split("train")[index] == records[name]
        assert float(hc) == pytest.approx(records[name].hc_mm)
        assert float(size) == pytest.approx(records[name].pixel_size_mm)


def test_tokens_are_one_tensor_only_when_they_agree(tiny_planes, tiny_hc18):
    planes = _planes(tiny_planes)
    planes.bind(STUDENT, TEACHER)
    batch = next(iter(planes.train_dataloader()))
    assert batch["student_tokens"] is batch["teacher_tokens"]
    assert all(math.isnan(value) for value in batch["hc_mm"])
    planes.bind(STUDENT, replace(TEACHER, context_length=30))
    assert next(iter(planes.train_dataloader()))["teacher_tokens"].shape == (8, 30)
    heads = _hc18(tiny_hc18)  # its captions name the spacing, which differs between 32 and 24 pixels
    heads.bind(STUDENT, TEACHER)
    batch = next(iter(heads.train_dataloader()))
    assert batch["student_tokens"] is not batch["teacher_tokens"]
    assert not torch.equal(batch["student_tokens"], batch["teacher_tokens"])


def test_without_a_teacher_there_is_no_teacher_view(tiny_hc18):
    data = _hc18(tiny_hc18)
    data.bind(STUDENT)
    assert not [key for key in next(iter(data.train_dataloader())) if key.startswith("teacher")]


def test_a_loss_without_teacher_gets_no_teacher_view_and_the_same_pictures(tiny_hc18):
    """Also with a larger teacher, whose size determines the resolution of the random geometry."""
    data = _hc18(tiny_hc18, val_share=0.3)
    larger = replace(TEACHER, image_size=40)
    data.bind(STUDENT, larger)
    asked = next(iter(data.train_dataloader()))
    data.bind(STUDENT, larger, asks_teacher=False)
    alone = next(iter(data.train_dataloader()))
    assert [key for key in asked if key not in alone] == ["teacher_image", "teacher_tokens"]
    assert all(torch.equal(asked[key], alone[key]) for key in ("student_image", "student_tokens", "index"))
    assert next(iter(data.val_dataloader()))["teacher_image"].shape[-1] == 40, "the probe compares with it"


def test_equal_captions_have_equal_ids(tiny_planes):
    data = _planes(tiny_planes, batch_size=20)
    data.bind(STUDENT)
    batch = next(iter(data.train_dataloader()))
    same_id = batch["caption_id"][:, None] == batch["caption_id"]
    same_tokens = (batch["student_tokens"][:, None] == batch["student_tokens"]).all(dim=2)
    assert torch.equal(same_id, same_tokens)
    assert 20 < same_id.sum() < 400
    assert text_id("ultrasound of the fetal heart") == 1210535105503062494


def test_images_of_one_plane_and_sub_plane_have_equal_class_ids(tiny_planes):
    data = _planes(tiny_planes, batch_size=20)
    data.bind(STUDENT)
    batch = next(iter(data.train_dataloader()))
    classes = list(zip(batch["plane"], batch["brain_plane"], strict=True))
    same = torch.tensor([[one == other for other in classes] for one in classes])
    assert torch.equal(batch["class_id"][:, None] == batch["class_id"], same)
    assert len(set(classes)) > 2
    data.records[:] = [replace(record, plane=None, caption="a scan") for record in data.records]
    assert "class_id" not in next(iter(data.train_dataloader())), "unknown classes are not one class"


def test_training_needs_contracts_and_enough_images(tiny_hc18):
    data = _hc18(tiny_hc18, batch_size=100)
    with pytest.raises(RuntimeError, match="bind"):
        data.train_dataloader()
    data.bind(STUDENT)
    with pytest.raises(ValueError, match=r"cannot fill one batch; lower batch_size \(100\)"):
        data.train_dataloader()
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        _hc18(tiny_hc18, batch_size=0)


def test_two_different_zooms_are_refused(tiny_hc18):
    assert _hc18(tiny_hc18, augmentation=Augmentation(zoom=0.2)).augmentation.zoom == 0.2
    with pytest.raises(ValueError, match=r"zoom is 0.5 and augmentation.zoom is 0.2; set --data.zoom alone"):
        _hc18(tiny_hc18, augmentation=Augmentation(zoom=0.2), zoom=0.5)


def test_validation_pairs_are_the_validation_patients_unchanged(tiny_hc18):
    data = _hc18(tiny_hc18, val_share=0.3, evaluation_batch_size=2)
    data.bind(STUDENT, TEACHER)
    once, twice = list(data.val_dataloader()), list(data.val_dataloader())
    assert [name for batch in once for name in batch["name"]] == [r.name for r in data.split("val")]
    assert [n for batch in data.test_dataloader() for n in batch["name"]] == [
        r.name for r in data.split("test")
    ]
    assert all(
        torch.equal(a["student_image"], b["student_image"])
        and torch.equal(a["student_tokens"], b["student_tokens"])
        for a, b in zip(once, twice, strict=True)
    )


@pytest.mark.parametrize("accelerator", [False, True])
def test_evaluation_sees_every_image_once_as_the_protocol_prepares_it(tiny_planes, accelerator, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: accelerator)
    data = _planes(tiny_planes, num_workers=2, evaluation_batch_size=5)
    data.bind(STUDENT)
    loader = data.predict_dataloader()
    assert loader.num_workers == (2 if accelerator else 0), "on a CPU they would interrupt the encoder"
    records = data.split("test")
    batches = list(loader)
    assert torch.equal(torch.cat([batch["index"] for batch in batches]), torch.arange(len(records)))
    assert [name for batch in batches for name in batch["name"]] == [record.name for record in records]
    expected = normalise(resize_padded(read_image(records[7].image), STUDENT), STUDENT)
    assert torch.equal(batches[1]["image"][2], expected)
    assert set(batches[0]["width"].tolist()) == {64}
    assert set(batches[0]["height"].tolist()) == {44}
    assert batches[0]["patient"][0] == records[0].patient


@pytest.mark.parametrize("world", [3, 8])
def test_processes_share_an_evaluation_without_padding(tiny_planes, monkeypatch, world):
    data = _planes(tiny_planes)
    data.bind(STUDENT)
    indices, steps = [], set()
    for rank in range(world):
        for module in ("base", "pairs.sampler"):
            monkeypatch.setattr(f"datamodules.{module}.process_rank", lambda rank=rank: (rank, world))
        for batch in data.predict_dataloader():
            indices += batch["index"].tolist()
        steps.add(sum(len(batch["name"]) for batch in data.val_dataloader() if batch))
    assert sorted(indices) == list(range(len(data.split("test"))))
    assert steps == {len(data.split("val")) // world}  # they exchange embeddings: equally many each


def test_benchmarks_leave_out_what_the_protocol_leaves_out(tiny_planes, tiny_hc18):
    data = _planes(tiny_planes)
    assert {r.plane for r in data.evaluation_records("planes", "all")} == {
        "brain",
        "abdomen",
        "heart",
        "femur",
        "cervix",
    }
    sub = data.evaluation_records("subplanes", "all")
    assert {r.brain_plane for r in sub} == {"trans-thalamic", "trans-cerebellum", "trans-ventricular"}
    everything = data.evaluation_records("planes", "all")
    parts = [data.evaluation_records("planes", split) for split in ("train", "val", "test")]
    assert sorted(r.name for part in parts for r in part) == sorted(r.name for r in everything)
    assert len(_hc18(tiny_hc18).evaluation_records("hc18", "all")) == 36


def test_unknown_benchmarks_and_splits_list_the_known(tiny_hc18):
    data = _hc18(tiny_hc18)
    with pytest.raises(ValueError, match=r"HC18DataModule has no benchmark 'planes'; it has \['hc18'\]"):
        data.evaluation_records("planes", "test")
    with pytest.raises(ValueError, match="split 'dev' is unknown"):
        data.evaluation_records("hc18", "dev")
    with pytest.raises(ValueError, match="no image of benchmark 'hc18' in split 'val'"):
        _hc18(tiny_hc18, val_share=0.0).evaluation_records("hc18", "val")


def test_evaluation_never_skips(tiny_planes):
    data = _planes(tiny_planes, on_error="skip")
    data.bind(STUDENT)
    data.split("test")[3].image.write_text("broken")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        list(data.predict_dataloader())


@pytest.mark.parametrize("split", ["val", "test"])
def test_pairs_of_validation_and_test_are_never_replaced(tiny_planes, split):
    data = _planes(tiny_planes, on_error="skip")
    data.bind(STUDENT)
    bad = data.split(split)[1].image
    bad.write_text("broken")
    loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    with pytest.raises(ValueError, match=f"{bad.name}: cannot be read as an image"):
        list(loader)


def test_another_seed_augments_differently(tiny_planes):
    views = []
    for seed in (0, 1, 0):
        data = _planes(tiny_planes, seed=seed)
        data.bind(STUDENT)
        views.append(data.train_dataloader().dataset[(0, 0)]["student_image"])
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])


def test_the_pairs_of_a_step_are_those_of_all_processes(tiny_hc18, monkeypatch):
    for module in ("base", "pairs.sampler"):
        monkeypatch.setattr(f"datamodules.{module}.process_rank", lambda: (0, 2))
    data = _hc18(tiny_hc18)
    data.bind(STUDENT)
    assert data.train_dataloader().order["batch_size x processes"] == 2 * 6


def test_captions_vary_over_epochs(tiny_planes):
    data = _planes(tiny_planes)
    data.bind(STUDENT)
    loader = data.train_dataloader()
    dataset = loader.dataset
    texts = {dataset[(epoch, 0)]["student_text"] for epoch in range(30)}
    assert len(texts) >= 3
    tokens = build_tokenizer(STUDENT)(sorted(texts))
    assert len({tuple(row.tolist()) for row in tokens}) == len(texts)


def test_an_evaluation_decodes_an_image_once_while_there_is_room(tiny_planes, monkeypatch):
    reads, squares = [], evaluation.SquareMemory(3 * 32 * 32)

    def counting(path):
        reads.append(path)
        return read_image(path)

    monkeypatch.setattr(evaluation, "read_image", counting)
    data = _planes(tiny_planes, num_workers=0)
    records = data.split("test")[:5]
    expected = [resize_padded(read_image(record.image), STUDENT) for record in records]
    for _ in range(2):
        for record, square in zip(records, expected, strict=True):
            found, shape = squares.of(record.image, STUDENT)
            assert np.array_equal(found, square)
            assert shape == (44, 64)
    assert len(reads) == 5 + 2, "three of the five fit"
    other = replace(STUDENT, image_size=16)
    assert squares.of(records[0].image, other)[0].shape == (16, 16)


def test_an_evaluation_reads_a_changed_image_again(tmp_path):
    path, squares = tmp_path / "a.png", evaluation.SquareMemory(10**6)
    write_image(path, 1, (40, 30))
    before = squares.of(path, STUDENT)[0]
    write_image(path, 2, (40, 30))
    os.utime(path, (1, 1))  # a coarse clock may give both writes the same time
    assert not np.array_equal(squares.of(path, STUDENT)[0], before)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png: no such image file"):
        squares.of(path, STUDENT)
