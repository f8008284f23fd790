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

from datamodules import PairShardsDataModule
from datamodules.shards.stream import openable
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


@pytest.fixture
def shards(tmp_path):
    """4 shards of 12 pairs."""
    for shard in range(4):
        members = []
        for sample in range(12):
            key = f"s{shard}i{sample:02d}"
            members += [(f"{key}.png", _png(12 * shard + sample)), (f"{key}.txt", f"caption {key}".encode())]
        _write(tmp_path / f"pairs-{shard:06d}.tar", members)
    return tmp_path


def _data(folder, urls="pairs-{000000..000003}.tar", **kwargs):
    settings = {"num_samples": 48, "batch_size": 4, "num_workers": 0, "shuffle_buffer": 8, **kwargs}
    data = PairShardsDataModule(urls=str(folder / urls), **settings)
    data.setup("fit")
    data.bind(SMALL, None)
    return data


def _epoch(loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    return [(batch["name"], float(batch["student_image"].sum())) for batch in loader]


def _batches(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def _names(epoch):
    return [name for names, _ in epoch for name in names]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_every_pair_once(shards, workers):
    loader = _data(shards, num_workers=workers).train_dataloader()
    assert len(loader) == 12
    first, second, again = (_epoch(loader, epoch) for epoch in (0, 1, 0))
    assert Counter(_names(first)) == Counter({f"s{s}i{i:02d}": 1 for s in range(4) for i in range(12)})
    assert Counter(_names(second)) == Counter(_names(first))
    assert _names(second) != _names(first)
    assert again == first


@pytest.mark.parametrize(("workers", "first"), [(0, 1), (0, 7), (0, 12), (2, 1), (2, 6), (2, 7)])
def test_a_resumed_epoch_continues_where_it_stopped(shards, monkeypatch, workers, first):
    data = _data(shards, num_workers=workers, on_error="skip")
    content = (shards / "pairs-000001.tar").read_bytes()
    (shards / "pairs-000001.tar").write_bytes(content[:9000])  # a truncated shard must not shift the rest
    whole = _epoch(data.train_dataloader(), 3)
    monkeypatch.setattr("datamodules.shards.pair_shards.resume_position", lambda _: (3, first))
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
    _write(shards / "pairs-000000.tar", [("only.png", _png(0)), ("only.txt", b"one")])
    for rank in range(2):
        monkeypatch.setattr("datamodules.shards.pair_shards.process_rank", lambda rank=rank: (rank, 2))
        assert len(_epoch(_data(shards).train_dataloader())) == 6


def test_shards_must_feed_every_worker(shards):
    with pytest.raises(ValueError, match=r"4 shards cannot feed 1 processes with 5 workers each; lower"):
        _data(shards, num_workers=5).train_dataloader()


def test_missing_shards_are_reported_at_once(shards):
    with pytest.raises(FileNotFoundError, match=r"2 of 6 shards are missing: .*000004.tar, .*000005.tar"):
        _data(shards, "pairs-{000000..000005}.tar")


def test_pipes_and_s3(shards, monkeypatch):
    direct = _epoch(_data(shards, "pairs-{000000..000001}.tar", num_samples=24).train_dataloader())
    pipes = PairShardsDataModule(
        urls=f"pipe:cat {shards}/pairs-{{000000..000001}}.tar",
        num_samples=24,
        batch_size=4,
        num_workers=0,
        shuffle_buffer=8,
    )
    pipes.setup("fit")
    pipes.bind(SMALL, None)
    assert _epoch(pipes.train_dataloader()) == direct
    assert openable("s3://bucket/it's.tar") == """pipe:aws s3 cp 's3://bucket/it'"'"'s.tar' -"""
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(FileNotFoundError, match="AWS command line"):
        PairShardsDataModule(urls="s3://bucket/a.tar").setup("fit")


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
    data = PairShardsDataModule(urls=url, num_samples=4, batch_size=2, num_workers=0)
    data.setup("fit")
    data.bind(SMALL, None)
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
    "broken json": ([("x.png", _png(1)), ("x.json", b"{")], "x: unreadable text"),
    "no object": ([("x.png", _png(1)), ("x.json", b"[1]")], "x: its json member is not an object"),
    "no pixel size": ([("x.png", _png(1)), ("x.txt", b"{spacing}")], "x: the caption needs the pixel size"),
    "nested json": (_facts("[" * 100_000), "x: unreadable text"),
    "captions a string": (
        _facts('{"captions": "fetal brain"}'),
        'x: captions is "fetal brain", not a list of texts',
    ),
    "captions an object": (_facts('{"captions": {"a": "b"}}'), "x: captions is {"),
    "captions a number": (_facts('{"captions": 5}'), "x: captions is 5, not a list of texts"),
    "captions of numbers": (_facts('{"captions": ["brain", 5]}'), r'x: captions is \["brain", 5\], not'),
    "caption a number": (_facts('{"caption": 5}'), "x: caption is 5, not a text"),
    "plane a number": (_facts('{"plane": 3}'), "x: plane is 3, not a text"),
    "brain plane a list": (_facts('{"brain_plane": []}'), r"x: brain_plane is \[\], not a text"),
    "pixel size a text": (
        _facts('{"caption": "{spacing}", "pixel_size_mm": "0.1"}'),
        'x: pixel_size_mm is "0.1", not a positive finite number',
    ),
    "circumference a text": (_facts('{"hc_mm": "100"}'), 'x: hc_mm is "100", not a positive'),
    "circumference empty": (_facts('{"hc_mm": ""}'), 'x: hc_mm is "", not a positive'),
    "circumference unlimited": (_facts('{"hc_mm": 1e999}'), "x: hc_mm is Infinity, not a positive"),
    "circumference undefined": (_facts('{"hc_mm": NaN}'), "x: hc_mm is NaN, not a positive"),
    "circumference huge": (_facts('{"hc_mm": 1' + 400 * "0" + "}"), "x: hc_mm is 1000"),
    "age true": (_facts('{"ga_days": true}'), "x: ga_days is true, not a positive"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_samples_raise_or_are_skipped(tmp_path, kind):
    members, message = BAD[kind]
    good = [("g.png", _png(2)), ("g.txt", b"good")]
    _write(tmp_path / "a.tar", [*members, *good])
    with pytest.raises(ValueError, match=rf"a.tar: {message}"):
        list(_data(tmp_path, "a.tar", num_samples=4).train_dataloader())
    batch = next(iter(_data(tmp_path, "a.tar", num_samples=4, on_error="skip").train_dataloader()))
    assert batch["name"] == ["g"] * 4
    assert any("a.tar: x" in line for line, _ in batch["skipped"])


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


def test_a_member_twice_in_a_shard_counts_as_one_sample(tmp_path):
    pairs = [[(f"k{n}.png", _png(n)), (f"k{n}.txt", f"text {n}".encode())] for n in range(4)]
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
    with pytest.raises(ValueError, match=r"does not list .*000003.tar; set num_samples"):
        _data(shards, num_samples=None).train_dataloader()


def test_public_sets_become_the_benchmarks(shards, tiny_hc18, tiny_planes):
    data = _data(shards, hc18_root=str(tiny_hc18), planes_root=str(tiny_planes))
    assert data.benchmarks == ("planes", "subplanes", "hc18")
    assert len(data.evaluation_records("hc18", "all")) == 36
    assert {r.corpus for r in data.evaluation_records("planes", "test")} == {"planes"}
    assert sum(len(batch["name"]) for batch in data.val_dataloader()) == len(data.split("val"))
    alone = _data(shards)
    assert alone.benchmarks == ()
    assert alone.val_dataloader() == []


def test_a_loss_without_teacher_gets_no_teacher_view(shards):
    data = _data(shards)
    data.bind(SMALL, SMALL)
    assert "teacher_image" in next(iter(data.train_dataloader()))
    data.bind(SMALL, SMALL, asks_teacher=False)
    assert not [key for key in next(iter(data.train_dataloader())) if key.startswith("teacher")]
