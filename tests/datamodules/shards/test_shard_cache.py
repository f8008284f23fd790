"""The cache of remote shards without a store: what stays, what is fetched once, what is removed."""

import os
import threading

from datamodules.shards import storage


def test_the_cache_keeps_the_shards_that_were_read_last(tmp_path, monkeypatch):
    contents = {f"s3://corpus/{name}.tar": name.encode() * 1000 for name in "abc"}
    monkeypatch.setattr(storage, "_block", lambda url, start, end, _: contents[url][start:end])
    remote = {url: storage.RemoteShard(1000, None, url[-5]) for url in contents}
    shards = storage.ShardStorage(tmp_path, 2500, remote=remote)
    first, second, third = contents
    for age, url in enumerate((first, second), 1):
        shards.open(url).close()
        os.utime(tmp_path / remote[url].file_name, (age, age))
    for url in (first, third):
        with shards.open(url) as file:
            assert file.read() == contents[url]
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["a.tar", "c.tar"]


def _one_shard(tmp_path, monkeypatch):
    """Return a store of one object, the blocks that were fetched, and events: a fetch has started, and may end."""
    blocks, started, gate = [], threading.Event(), threading.Event()

    def block(_url, start, end, _size):
        blocks.append(start)
        started.set()
        assert gate.wait(30)
        return bytes(end - start)

    monkeypatch.setattr(storage, "_block", block)
    url = "s3://corpus/a.tar"
    store = storage.ShardStorage(tmp_path, 10**6, remote={url: storage.RemoteShard(1000, None, "a")})
    return store, blocks, started, gate


def test_a_shard_that_two_ask_for_is_fetched_once(tmp_path, monkeypatch):
    shards, blocks, started, gate = _one_shard(tmp_path, monkeypatch)
    streams = [shards.opened([*shards.remote]) for _ in range(2)]  # as the threads of two epochs do
    found = []
    threads = [
        threading.Thread(target=lambda stream=stream: found.append(next(stream)[1])) for stream in streams
    ]
    for thread in threads:
        thread.start()
    assert started.wait(30)
    gate.set()
    for thread in threads:
        thread.join()
    assert [file.read() for file in found] == [bytes(1000)] * 2
    assert blocks == [0]
    assert [path.name for path in tmp_path.glob("*.tar")] == ["a.tar"]


def test_unfinished_files_of_ended_workers_are_removed(tmp_path, monkeypatch):
    shards, _, _, gate = _one_shard(tmp_path, monkeypatch)
    gate.set()
    old, new = (tmp_path / f".other.machine-{number}.partial.tar" for number in (1, 2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    shards.open(*shards.remote).close()
    assert not old.exists()
    assert new.exists(), "another worker may be writing it"
