"""Remote shards: the same batches through a store's faults, nothing unverified, one line when it gives up."""

import hashlib
import io
import json
import re
import tarfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import cv2
import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from datamodules import PairShardsDataModule
from datamodules.shards import storage
from models import CLIP_MEAN, CLIP_STD, Preprocessing
from tests.datamodules.shards.faulty_proxy import FaultyProxy

SMALL = Preprocessing(16, CLIP_MEAN, CLIP_STD, tokenizer="fetal", context_length=24)
URLS = "s3://corpus/deep/pairs-{000000..000003}.tar"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """4 shards of 6 pairs, 60 kB each, with their manifest."""
    folder, entries = tmp_path_factory.mktemp("shards"), []
    for shard in range(4):
        path = folder / f"pairs-{shard:06d}.tar"
        with tarfile.open(path, "w") as archive:
            for sample in range(6):
                noise = np.random.default_rng([shard, sample]).integers(0, 255, (96, 96), dtype=np.uint8)
                members = {"png": cv2.imencode(".png", noise)[1].tobytes(), "txt": f"pair {sample}".encode()}
                for suffix, content in members.items():
                    info = tarfile.TarInfo(f"s{shard}i{sample}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        content = path.read_bytes()
        hashed = hashlib.sha256(content).hexdigest()
        entries.append({"name": path.name, "samples": 6, "bytes": len(content), "sha256": hashed})
    (folder / "manifest.json").write_text(json.dumps({"shards": entries, "complete": True}))
    return folder


@pytest.fixture(scope="module")
def moto():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def store(moto, folder, monkeypatch):
    """A proxy before an S3 server that holds the shards; credentials and endpoint as a user sets them."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{moto}")
    client.create_bucket(Bucket="corpus")
    for path in folder.iterdir():
        client.upload_file(str(path), "corpus", f"deep/{path.name}")
    proxy = FaultyProxy(moto)
    proxy.client = client
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    # Blocks of 20 kB, three for each shard, and short waits.
    for name, value in {
        "BLOCK": 20_000,
        "BLOCK_SECONDS": 20.0,
        "FIRST_WAIT": 0.01,
        "LONGEST_WAIT": 0.1,
    }.items():
        monkeypatch.setattr(storage, name, value)
    fsspec.filesystem("s3").clear_instance_cache()  # the endpoint is another one
    yield proxy
    proxy.close()


def make(urls, cache, **kwargs):
    settings = {"batch_size": 4, "num_workers": 0, "shuffle_buffer": 8, "shard_patience": 60.0, **kwargs}
    data = PairShardsDataModule(urls=str(urls), shard_cache=str(cache), **settings)
    data.setup("fit")
    data.bind(SMALL, None)
    return data


def epoch(data):
    return [(batch["name"], float(batch["student_image"].sum())) for batch in data.train_dataloader()]


@pytest.fixture(scope="module")
def expected(folder):
    """The batches of an epoch of the local files."""
    return epoch(make(folder, folder))


FAULTS = {
    "503": lambda number: "503" if 2 <= number < 6 else None,
    "cut": lambda number: "cut" if number % 2 and number < 8 else None,
    "stall": lambda number: 20.0 if number == 4 else None,
    "flip": lambda number: "flip" if number == 5 else None,
}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.filterwarnings("ignore:.*trying again")
def test_faults_change_no_batch(store, folder, expected, tmp_path, monkeypatch, kind):
    if kind == "stall":
        monkeypatch.setattr(storage, "BLOCK_SECONDS", 1.0)
    store.fault = FAULTS[kind]
    assert epoch(make(URLS, tmp_path / "cache")) == expected
    assert len(store.faults) == {"503": 4, "cut": 4, "stall": 1, "flip": 1}[kind]
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "cache").glob("*.tar")}
    assert hashes == {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar")}


def test_workers_share_the_cache_and_a_second_run_fetches_nothing(store, folder, tmp_path):
    expected = epoch(make(folder, tmp_path, num_workers=2))
    assert epoch(make(URLS, tmp_path / "cache", num_workers=2)) == expected
    before = len(store.requests)
    assert epoch(make(URLS, tmp_path / "cache", num_workers=2)) == expected
    assert all(path.endswith("manifest.json") for path in store.requests[before:])


def test_a_cached_shard_that_was_damaged_is_fetched_again(store, expected, tmp_path):
    assert epoch(make(URLS, tmp_path / "cache")) == expected
    damaged = sorted((tmp_path / "cache").glob("*.tar"))[0]
    content = bytearray(damaged.read_bytes())
    content[700] ^= 4
    damaged.write_bytes(content)
    assert epoch(make(URLS, tmp_path / "cache")) == expected


def test_the_cache_keeps_to_its_size(store, folder, expected, tmp_path):
    sizes = sorted(path.stat().st_size for path in folder.glob("*.tar"))
    data = make(URLS, tmp_path / "cache", shard_cache_gb=(sizes[-1] * 2.5) / 1e9)
    assert epoch(data) == expected
    held = [path.stat().st_size for path in (tmp_path / "cache").glob("*.tar")]
    assert len(held) == 2
    with pytest.raises(ValueError, match=r"pairs-00000\d\.tar: \d+ bytes; raise data\.shard_cache_gb$"):
        make(URLS, tmp_path / "cache", shard_cache_gb=sizes[0] / 2e9)


def test_absent_shards_are_an_error_before_the_first_step(store, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"^data: 4 of 6 shards missing: s3://corpus/deep/pairs-00000[4-9]"
    ):
        make("s3://corpus/deep/pairs-{000002..000007}.tar", tmp_path)


def test_a_shard_of_another_size_or_content_than_listed_is_named(store, folder, tmp_path):
    listed = (folder / "pairs-000001.tar").read_bytes()
    store.client.put_object(Bucket="corpus", Key="deep/pairs-000001.tar", Body=listed[:-512])
    with pytest.raises(ValueError, match=r"pairs-000001\.tar: \d+ bytes, but \d+ in manifest\.json$"):
        make(URLS, tmp_path)
    store.client.put_object(Bucket="corpus", Key="deep/pairs-000001.tar", Body=listed[:-1] + b"x")
    message = r"^s3://corpus/deep/pairs-000001\.tar: unreadable shard \(fetched 3 times, .*\(SHA-256\)\)$"
    with pytest.raises(ValueError, match=message):
        epoch(make(URLS, tmp_path))
    names = [name for names, _ in epoch(make(URLS, tmp_path, on_error="skip")) for name in names]
    assert len(names) == 24
    assert not any(name.startswith("s1") for name in names), "no sample of the changed shard was delivered"


@pytest.mark.filterwarnings("ignore:.*trying again")
def test_a_store_that_stays_away_ends_the_run_with_one_line(store, tmp_path):
    data = make(URLS, tmp_path, shard_patience=0.5, on_error="skip")
    store.fault = lambda _: "503"
    message = r"^s3://corpus/deep/pairs-00000\d\.tar: no success in 0\.5 s \(data\.shard_patience\); last error: .+$"
    with pytest.raises(OSError, match=message):
        epoch(data)


def test_refusals_are_not_repeated(store, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="4 of 4 shards missing"), pytest.warns(match="size only"):
        make("s3://elsewhere/pairs-{000000..000003}.tar", tmp_path)
    monkeypatch.setattr(storage, "_ask", lambda *_, **__: (_ for _ in ()).throw(PermissionError("Forbidden")))
    with pytest.raises(
        PermissionError, match=r"^s3://corpus/deep/pairs-000000\.tar: PermissionError: Forbidden$"
    ):
        make(URLS, tmp_path)


def test_a_missing_extra_and_a_url_without_a_file_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^data: s3://corpus: not a shard; give s3://bucket/[^\n]*$"):
        make("s3://corpus", tmp_path)

    def absent(*_, **__):
        raise ImportError("Please install gcsfs\nto access Google Storage")

    monkeypatch.setattr(storage, "url_to_fs", absent)
    with pytest.raises(
        ValueError, match=r"^gs://[^\n]*install gcsfs [^\n]*pip install 'path/to/the/clone\[gs\]'$"
    ):
        make("gs://corpus/a.tar", tmp_path)


def test_without_a_manifest_shards_are_verified_by_size(store, expected, tmp_path):
    store.client.delete_object(Bucket="corpus", Key="deep/manifest.json")
    with pytest.warns(UserWarning, match="verified by their size only"):
        data = make(URLS, tmp_path / "cache", num_samples=24)
    assert epoch(data) == expected


@pytest.fixture
def web(folder, monkeypatch):
    """A plain web server, which knows no ranges."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore:.*trying again")
def test_web_servers(web, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.01)
    urls = f"{web}/pairs-{{000000..000003}}.tar?token=s3cret"
    assert epoch(make(urls, tmp_path / "cache")) == expected
    with pytest.raises(
        FileNotFoundError, match=r"1 of 2 shards missing: http://[^\n]*0009\.tar\?<redacted>$"
    ):
        make(f"{web}/pairs-00000{{1,9}}.tar?token=s3cret", tmp_path)
    nobody = "http://127.0.0.1:9/a.tar?token=s3cret"
    with pytest.raises(OSError, match=r"^http://127[^\n]*no success in 0\.1 s[^\n]*$") as caught:
        make(nobody, tmp_path, shard_patience=0.1, num_samples=4)
    assert "s3cret" not in str(caught.value)


class GoogleStorage(BaseHTTPRequestHandler):
    """The requests of Google Storage's JSON API that read: an object's record, its bytes, the list of a prefix."""

    protocol_version = "HTTP/1.1"
    folder, generation = None, "1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        bucket, name = re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)/o/?(.*)", url.path).groups()
        file = self.folder / unquote(name).removeprefix("deep/")
        if bucket.isdigit():
            return self.answer(int(bucket), b'{"error": {"message": "no storage.objects.get access"}}')
        if not name:
            assert "prefix" in parse_qs(url.query)
            return self.answer(200, b"{}")
        if not unquote(name).startswith("deep/") or not file.is_file():
            return self.answer(404, b'{"error": {"code": 404, "message": "No such object"}}')
        content = file.read_bytes()
        if not url.path.startswith("/download"):
            record = {"name": unquote(name), "size": str(len(content)), "generation": self.generation}
            return self.answer(
                200, json.dumps({"kind": "storage#object", "bucket": bucket, **record}).encode()
            )
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            return self.answer(200, content)
        return self.answer(206, content[int(wanted[1]) : int(wanted[2]) + 1])

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def google(folder, monkeypatch):
    """A proxy before a server that speaks Google Storage's API; endpoint and token as a user sets them."""
    pytest.importorskip("gcsfs", reason="gs:// needs pip install 'path/to/the/clone[gs]'")
    handler = type("Handler", (GoogleStorage,), {"folder": folder})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    proxy = FaultyProxy(server.server_port)
    proxy.handler = handler
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    monkeypatch.setitem(
        fsspec.config.conf, "gs", {"token": "anon"}
    )  # FSSPEC_GS_TOKEN=anon, read at the start
    for name, value in {"BLOCK": 20_000, "FIRST_WAIT": 0.01}.items():
        monkeypatch.setattr(storage, name, value)
    fsspec.filesystem("gs").clear_instance_cache()
    yield proxy
    proxy.close()
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore:.*trying again")
def test_google_storage(google, folder, expected, tmp_path, caplog):
    urls = URLS.replace("s3://", "gs://")
    due = {1: "503", 4: "cut", 6: "flip"}

    def fault(_):
        blocks = [path for path in google.requests if path.startswith("/download") and ".tar" in path]
        return due.pop(len(blocks), None)

    google.fault = fault
    assert epoch(make(urls, tmp_path / "cache")) == expected
    assert google.faults == ["503", "cut", "flip"]
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "cache").glob("*.tar")}
    assert hashes == {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar")}
    google.fault = lambda _: None
    with pytest.raises(
        FileNotFoundError, match=r"^data: 1 of 2 shards missing: gs://corpus/deep/pairs-000009\.tar$"
    ):
        make("gs://corpus/deep/pairs-00000{1,9}.tar", tmp_path)
    for status in (401, 403):
        with pytest.raises(PermissionError, match=rf"^gs://{status}/deep/a\.tar: [^\n]*no storage[^\n]*$"):
            make(f"gs://{status}/deep/a.tar", tmp_path, num_samples=4)
    assert "gcsfs" not in caplog.text, "it logs tracebacks"


def test_an_object_of_google_storage_that_was_replaced_is_another_one(google, folder):
    shards = storage.ShardStorage()
    url = "gs://corpus/deep/pairs-000000.tar"
    first = shards.described([url], {})[url]
    assert first == shards.described([url], {})[url]
    google.handler.generation = "2"
    assert shards.described([url], {})[url].version != first.version


def test_commands_and_other_schemes_are_refused(folder, tmp_path):
    with pytest.raises(
        ValueError, match=r"^data: pipe:cat [^\n]*shell; allow it with --data\.allow_pipe=true$"
    ):
        make(f"pipe:cat {folder}/pairs-000000.tar", tmp_path)
    with pytest.raises(ValueError, match=r"^data: sftp://host/a\.tar: shards are files, s3://"):
        make("sftp://host/a.tar", tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*trying again")
@pytest.mark.parametrize("kind", ["503 for 5 minutes", "ten cuts", "stall of 60 s"])
def test_real_faults_in_real_time(store, folder, expected, tmp_path, monkeypatch, kind):
    """The limits that ship, with blocks small enough that ten of them can be cut."""
    for name, value in {"BLOCK_SECONDS": 60.0, "FIRST_WAIT": 1.0, "LONGEST_WAIT": 30.0}.items():
        monkeypatch.setattr(storage, name, value)
    data = make(URLS, tmp_path / "cache", shard_patience=600.0)
    begun = []

    def outage(_):
        begun.append(storage.time.monotonic())
        return "503" if begun[-1] - begun[0] < 300 else None

    store.fault = {
        "503 for 5 minutes": outage,
        "ten cuts": lambda number: "cut" if number % 2 and number < 22 else None,
        "stall of 60 s": lambda _: 60.0 if len(store.faults) == 0 else None,
    }[kind]
    assert epoch(data) == expected
    assert store.faults
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "cache").glob("*.tar")}
    assert hashes == {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar")}
