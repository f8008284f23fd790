"""Shard stream: every pair once per pass, exact resuming, named bad members."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter

import cv2
import numpy as np
import pytest
import torch

from datamodules import Augmentation, PairShardsDataModule
from models import CLIP_MEAN, CLIP_STD, Preprocessing, build_tokenizer

SMALL = Preprocessing(16, CLIP_MEAN, CLIP_STD, tokenizer="fetal", context_length=24)


def _png(seed):
    image = np.random.default_rng(seed).integers(0, 255, (12, 20), dtype=np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def _write(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _pair(key, seed):
    return [(f"{key}.png", _png(seed)), (f"{key}.txt", f"caption {key}".encode())]


@pytest.fixture
def shards(tmp_path):
    """4 shards of 12 pairs."""
    for shard in range(4):
        pairs = [_pair(f"s{shard}i{sample:02d}", 12 * shard + sample) for sample in range(12)]
        _write(tmp_path / f"pairs-{shard:06d}.tar", [member for pair in pairs for member in pair])
    return tmp_path


def _data(folder, urls="pairs-{000000..000003}.tar", **kwargs):
    settings = {"num_samples": 48, "batch_size": 4, "num_workers": 0, "shuffle_buffer": 8, **kwargs}
    data = PairShardsDataModule(urls=urls if urls.startswith("pipe:") else str(folder / urls), **settings)
    data.setup("fit")
    data.bind(SMALL, None)
    return data


def _batches(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def _epoch(loader, epoch=0):
    return [(batch["name"], float(batch["student_image"].sum())) for batch in _batches(loader, epoch)]


def _names(epoch):
    return [name for names, _ in epoch for name in names]


def _pictures(loader, epoch=0):
    """Return the pixels of each student's view, in order, beside the names of the samples."""
    batches = _batches(loader, epoch)
    names = [name for batch in batches for name in batch["name"]]
    return names, [view.numpy().tobytes() for batch in batches for view in batch["student_image"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_every_pair_once(shards, workers):
    loader = _data(shards, num_workers=workers).train_dataloader()
    assert len(loader) == 12
    first, second, again = (_epoch(loader, epoch) for epoch in (0, 1, 0))
    assert Counter(_names(first)) == Counter({f"s{s}i{i:02d}": 1 for s in range(4) for i in range(12)})
    assert Counter(_names(second)) == Counter(_names(first))
    assert _names(second) != _names(first)
    assert again == first


@pytest.mark.parametrize("augmentation", [Augmentation(), None])
def test_a_sample_is_augmented_anew_in_every_epoch(shards, augmentation):
    loader = _data(shards, augmentation=augmentation).train_dataloader()
    first, second = (dict(zip(*_pictures(loader, epoch), strict=True)) for epoch in (0, 1))
    assert len(first) == 48
    assert {first[name] == second[name] for name in first} == {augmentation is None}


def test_no_two_processes_augment_alike(tmp_path, monkeypatch):
    for shard in "ab":  # one picture throughout
        _write(tmp_path / f"{shard}.tar", [member for n in range(8) for member in _pair(f"{shard}{n}", 0)])
    views = []
    for rank in range(2):
        monkeypatch.setattr("datamodules.shards.pair_shards.process_rank", lambda rank=rank: (rank, 2))
        loader = _data(tmp_path, f"a.tar::{tmp_path}/b.tar", num_samples=16).train_dataloader()
        views += _pictures(loader)[1]
    assert len(views) == len(set(views)) == 16


def test_every_epoch_visits_the_shards_in_an_order_of_its_own(shards):
    loader = _data(shards, shuffle_buffer=1).train_dataloader()
    orders = [tuple(dict.fromkeys(name[:2] for name in _pictures(loader, epoch)[0])) for epoch in range(5)]
    assert {frozenset(order) for order in orders} == {frozenset(("s0", "s1", "s2", "s3"))}
    assert len(set(orders)) > 2


def test_the_shuffle_buffer_is_filled_before_the_first_sample(tmp_path):
    _write(tmp_path / "a.tar", [member for n in range(200) for member in _pair(f"k{n:03d}", n)])
    first = []
    for seed in range(20):
        data = _data(tmp_path, "a.tar", num_samples=200, batch_size=1, shuffle_buffer=100, seed=seed)
        (name,) = next(iter(data.train_dataloader()))["name"]
        first.append(int(name[1:]))
    assert sum(position > 5 for position in first) > 10, first


@pytest.mark.parametrize(("workers", "firsts"), [(0, (1, 7, 12)), (2, (1, 6, 7))])
def test_a_resumed_epoch_continues_where_it_stopped(shards, monkeypatch, workers, firsts):
    data = _data(shards, num_workers=workers, on_error="skip")
    content = (shards / "pairs-000001.tar").read_bytes()
    (shards / "pairs-000001.tar").write_bytes(content[:9000])  # a truncated shard must not shift the rest
    whole = _epoch(data.train_dataloader(), 3)
    for first in firsts:
        monkeypatch.setattr(
            "datamodules.shards.pair_shards.resume_position", lambda _, first=first: (3, first)
        )
        loader = data.train_dataloader()
        assert _epoch(loader, 3) == whole[first:]
    assert len(_epoch(loader, 4)) == 12


def test_processes_and_workers_share_the_shards(shards, monkeypatch):
    seen = []
    for rank in range(2):
        monkeypatch.setattr("datamodules.shards.pair_shards.process_rank", lambda rank=rank: (rank, 2))
        seen += _names(_epoch(_data(shards, num_workers=2).train_dataloader()))
    assert len(seen) == 48
    assert len(set(seen)) == 48


def test_uneven_shards_give_every_process_as_many_batches(shards, monkeypatch):
    _write(shards / "pairs-000000.tar", _pair("only", 0))
    for rank in range(2):
        monkeypatch.setattr("datamodules.shards.pair_shards.process_rank", lambda rank=rank: (rank, 2))
        assert len(_epoch(_data(shards).train_dataloader())) == 6


def test_shards_must_feed_every_worker(shards):
    with pytest.raises(ValueError, match=r"4 shards cannot feed 1 process with 5 workers each; lower"):
        _data(shards, num_workers=5).train_dataloader()


def test_missing_shards_are_reported_at_once(shards):
    with pytest.raises(FileNotFoundError, match=r"2 of 6 shards missing: .*000004.tar, .*000005.tar"):
        _data(shards, "pairs-{000000..000005}.tar")


def test_pipes(shards):
    direct = _epoch(_data(shards, "pairs-{000000..000001}.tar", num_samples=24).train_dataloader())
    pipes = _data(shards, f"pipe:cat {shards}/pairs-{{000000..000001}}.tar", num_samples=24, allow_pipe=True)
    assert _epoch(pipes.train_dataloader()) == direct


@pytest.mark.parametrize(
    ("poll", "reason"),
    [  # the library asks for the status once it has read all; which of the two it sees is a matter of time
        (subprocess.Popen.wait, "its command ended with exit status 3"),
        (lambda _: None, "its command wrote nothing"),
    ],
)
def test_a_failing_pipe_is_named_by_its_url(poll, reason, monkeypatch):
    gopen = sys.modules["webdataset.gopen"]  # the package exports a function of that name
    monkeypatch.setattr(gopen, "Popen", type("Popen", (subprocess.Popen,), {"poll": poll}))
    url = "pipe:exit 3 # /x/a.tar"
    data = _data(None, url, num_samples=4, allow_pipe=True)
    with pytest.raises(ValueError, match=f"^{re.escape(url)}: unreadable shard \\({reason}\\)$"):
        list(data.train_dataloader())


def test_json_members_carry_captions_and_facts(tmp_path):
    facts = {"captions": ["head, {spacing} mm"], "pixel_size_mm": 0.2, "plane": "brain", "hc_mm": 180.0}
    _write(
        tmp_path / "a.tar", [("x.JPG", _png(0)), ("x.json", json.dumps(facts).encode()), ("x.txt", b"not me")]
    )
    data = _data(tmp_path, "a.tar", num_samples=2, batch_size=2)
    batch = next(iter(data.train_dataloader()))
    assert batch["plane"] == ["brain", "brain"]
    assert batch["hc_mm"].tolist() == [180.0, 180.0]
    expected = build_tokenizer(SMALL)(["head, 0.25 mm"])[0]  # 20 / 16 * 0.2
    assert torch.equal(batch["student_tokens"][0], expected)


def _facts(text):
    return [("x.png", _png(1)), ("x.txt", b"text"), ("x.json", text.encode())]


BAD = {
    "broken image": ([("x.png", b"oops"), ("x.txt", b"text")], "x: cannot be read as an image"),
    "empty caption": ([("x.png", _png(1)), ("x.txt", b"  ")], "x: the caption is empty"),
    "no caption": ([("x.png", _png(1))], "x: the caption is empty"),
    "no image": ([("x.txt", b"text")], r"x: no image among its members \['txt'\]"),
    "no text": ([("x.png", _png(1)), ("x.txt", b"\xff")], "x: txt: 'utf-8' codec"),
    "no pixel size": ([("x.png", _png(1)), ("x.txt", b"{spacing}")], "x: the caption needs the pixel size"),
    "broken json": (_facts("{"), "x: json: Invalid JSON"),
    "no object": (_facts("[1]"), "x: json: .*object"),
    "nested json": (_facts("[" * 100_000), "x: json: .*recursion limit"),
    "captions a string": (_facts('{"captions": "fetal brain"}'), "x: json: captions: "),
    "captions of numbers": (_facts('{"captions": ["brain", 5]}'), r"x: json: captions.1: .*string"),
    "plane a number": (_facts('{"plane": 3}'), "x: json: plane: .*string"),
    "pixel size a text": (
        _facts('{"caption": "{spacing}", "pixel_size_mm": "0.1"}'),
        "x: json: pixel_size_mm: .*number",
    ),
    "circumference negative": (_facts('{"hc_mm": -1}'), "x: json: hc_mm: .*greater than 0"),
    "circumference unlimited": (_facts('{"hc_mm": 1e999}'), "x: json: hc_mm: .*finite"),
    "circumference undefined": (_facts('{"hc_mm": NaN}'), "x: json: hc_mm: .*finite"),
    "circumference huge": (
        _facts('{"hc_mm": 1' + 400 * "0" + "}"),
        "x: json: hc_mm: .*number",
    ),  # worded by pydantic's version
    "age true": (_facts('{"ga_days": true}'), "x: json: ga_days: .*number"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_samples_raise_or_are_skipped(tmp_path, kind):
    members, message = BAD[kind]
    _write(tmp_path / "a.tar", [*members, *_pair("g", 2)])
    with pytest.raises(ValueError, match=rf"a.tar: {message}"):
        list(_data(tmp_path, "a.tar", num_samples=4).train_dataloader())
    batch = next(iter(_data(tmp_path, "a.tar", num_samples=4, on_error="skip").train_dataloader()))
    assert batch["name"] == ["g"] * 4
    assert any("a.tar: x" in line for line, _ in batch["skipped"])


def test_more_bad_samples_than_may_follow_each_other_are_skipped_among_good_ones(tmp_path):
    bad, good = (
        [[(f"bad{n}.png", b"oops")] for n in range(120)],
        [_pair(f"good{n:03d}", n) for n in range(120)],
    )
    members = [member for pair in zip(bad, good, strict=True) for sample in pair for member in sample]
    _write(tmp_path / "a.tar", members)
    data = _data(tmp_path, "a.tar", num_samples=120, on_error="skip", shuffle_buffer=1, augmentation=None)
    batches = list(data.train_dataloader())
    assert [name for batch in batches for name in batch["name"]] == [f"good{n:03d}" for n in range(120)]
    assert sum(number for batch in batches for _, number in batch["skipped"]) == 120


def test_a_truncated_shard_is_named(shards):
    path = shards / "pairs-000002.tar"
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"pairs-000002.tar: unreadable shard \(unexpected end of data\)"):
        list(_data(shards).train_dataloader())
    batches = list(_data(shards, on_error="skip", num_samples=96).train_dataloader())
    assert any("pairs-000002.tar" in line for batch in batches for line, _ in batch["skipped"])
    assert len(batches) == 24


@pytest.mark.parametrize("listed", [True, False])
def test_a_truncated_shard_counts_as_its_missing_samples(shards, listed):
    path = shards / "pairs-000002.tar"
    with tarfile.open(path) as archive:
        member = next(member for member in archive if member.name == "s2i05.png")
    path.write_bytes(path.read_bytes()[: member.offset_data + 10])  # five pairs remain
    if listed:
        counts = [{"name": f"pairs-{number:06d}.tar", "samples": 12} for number in range(4)]
        (shards / "manifest.json").write_text(json.dumps({"shards": counts}))
    data = _data(shards, on_error="skip", num_samples=96 if listed else 48)  # 48: 12 each without a manifest
    batches = [batch for epoch in range(2) for batch in _batches(data.train_dataloader(), epoch)]
    lost = {bad for batch in batches for bad in batch["skipped"]}
    assert lost == {(f"{path}: unreadable shard (unexpected end of data)", 7)}


@pytest.mark.parametrize("damage", ["zeros", "header"])
def test_a_damaged_shard_that_seems_to_end_early_counts_as_its_missing_samples(shards, damage):
    path = shards / "pairs-000002.tar"
    with tarfile.open(path) as archive:
        start = next(member for member in archive if member.name == "s2i05.png").offset
    content = bytearray(path.read_bytes())
    content[start : len(content) if damage == "zeros" else start + 512] = bytes(
        len(content) - start if damage == "zeros" else 512
    )
    path.write_bytes(content)
    counts = [{"name": f"pairs-{number:06d}.tar", "samples": 12} for number in range(4)]
    (shards / "manifest.json").write_text(json.dumps({"shards": counts}))
    with pytest.raises(ValueError, match=r"pairs-000002.tar: unreadable shard \(5 of its 12 samples found\)"):
        list(_data(shards).train_dataloader())
    batches = [
        b for epoch in range(2) for b in _batches(_data(shards, on_error="skip").train_dataloader(), epoch)
    ]
    assert {number for batch in batches for _, number in batch["skipped"]} == {7}


def test_a_member_twice_in_a_shard_counts_as_one_sample(tmp_path):
    pairs = [_pair(f"k{n}", n) for n in range(4)]
    _write(tmp_path / "a.tar", [*pairs[0], pairs[1][0], *pairs[1], *pairs[2], *pairs[3]])
    batches = list(_data(tmp_path, "a.tar", num_samples=8, on_error="skip").train_dataloader())
    lost = {bad for batch in batches for bad in batch["skipped"]}
    assert [count for _, count in lost] == [4]  # an equal share of 8 is 8, and 4 were read


def test_shards_without_readable_samples_are_an_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar at all")
    with pytest.raises(ValueError, match=r"no readable sample in .*a.tar"):
        list(_data(tmp_path, "a.tar", num_samples=4, on_error="skip").train_dataloader())


def test_the_manifest_counts_an_epoch(shards):
    with pytest.raises(ValueError, match="set num_samples"):
        _data(shards, num_samples=None).train_dataloader()
    counts = [{"name": f"pairs-{number:06d}.tar", "samples": 12} for number in range(3)]
    (shards / "manifest.json").write_text(json.dumps({"shards": counts}))
    assert len(_data(shards, "pairs-{000000..000002}.tar", num_samples=None).train_dataloader()) == 9
    with pytest.raises(ValueError, match=r"lists .*000003.tar; set num_samples"):
        _data(shards, num_samples=None).train_dataloader()


@pytest.mark.parametrize("joined", ["a/0.tar::{}/b/0.tar", "a::{}/b"])
def test_every_folder_has_its_own_manifest(tmp_path, joined):
    urls = joined.format(tmp_path)
    for folder, pairs in (("a", 4), ("b", 8)):
        (tmp_path / folder).mkdir()
        _write(tmp_path / folder / "0.tar", [m for n in range(pairs) for m in _pair(f"{folder}{n}", n)])
        counts = {"shards": [{"name": "0.tar", "samples": pairs}]}
        (tmp_path / folder / "manifest.json").write_text(json.dumps(counts))
    data = _data(tmp_path, urls, num_samples=None)
    batches = list(data.train_dataloader())
    assert (
        len({name for batch in batches for name in batch["name"]})
        == sum(len(b["name"]) for b in batches)
        == 12
    )


def test_a_long_list_with_secrets_is_refused_without_them():
    urls = "::".join(f"ftp://host/{'x' * 250}/{number}.tar?sig=SECRET" for number in range(20))
    with pytest.raises(ValueError, match="ftp://host/") as refusal:
        PairShardsDataModule(urls=urls).setup("fit")
    assert "SECRET" not in str(refusal.value)


def test_public_sets_become_the_benchmarks(shards, tiny_hc18, tiny_planes):
    data = _data(shards, hc18_root=str(tiny_hc18), planes_root=str(tiny_planes))
    assert data.benchmarks == ("planes", "subplanes", "hc18")
    assert len(data.evaluation_records("hc18", "all")) == 36
    assert {r.corpus for r in data.evaluation_records("planes", "test")} == {"planes"}
    assert sum(len(batch["name"]) for batch in data.val_dataloader()) == len(data.split("val"))
    alone = _data(shards)
    assert alone.benchmarks == ()
    assert list(alone.val_dataloader()) == [{}]


def test_the_public_images_of_a_split_need_no_shards(tmp_path, tiny_hc18):
    """An export calibrates with them on a machine without the corpus."""
    data = PairShardsDataModule(urls=str(tmp_path / "gone-{000..009}.tar"), hc18_root=str(tiny_hc18))
    assert {record.corpus for record in data.split("train")} == {"hc18"}


def test_a_loss_without_teacher_gets_no_teacher_view(shards):
    data = _data(shards)
    data.bind(SMALL, SMALL)
    assert "teacher_image" in next(iter(data.train_dataloader()))
    data.bind(SMALL, SMALL, asks_teacher=False)
    assert not [key for key in next(iter(data.train_dataloader())) if key.startswith("teacher")]
