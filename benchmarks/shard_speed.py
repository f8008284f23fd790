"""Shards in S3 beside the same shards on local disk: an epoch of the loader with 2 workers, from start to last batch.

The S3 server (moto) runs in this process, and takes its share of the same cores.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import boto3
from moto.server import ThreadedMotoServer

from benchmarks._material import head_records
from benchmarks._record import Row, interleave
from datamodules import PairShardsDataModule
from datamodules.shards.writer import write_shards
from models import CLIP_MEAN, CLIP_STD, Preprocessing

VIEW = Preprocessing(224, CLIP_MEAN, CLIP_STD, context_length=77)
SHARDS, WORKERS, BUCKET = 8, 2, "corpus"


def epoch(urls: str, cache: Path, fresh: bool) -> None:
    """Read every pair of an epoch; `fresh` empties the cache before."""
    if fresh:
        shutil.rmtree(cache, ignore_errors=True)
    data = PairShardsDataModule(urls=urls, shard_cache=str(cache), batch_size=16, num_workers=WORKERS)
    data.setup("fit")
    data.bind(VIEW, None)
    for _ in data.train_dataloader():
        pass


def measure(quick: bool) -> list[Row]:
    each, rounds = (4, 1) if quick else (32, 3)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch.dict(os.environ, {**keys, "AWS_ENDPOINT_URL": address, "NO_PROXY": "127.0.0.1"}),
    ):
        folder, cache = Path(name) / "shards", Path(name) / "cache"
        folder.mkdir()
        records, what = head_records(Path(name) / "images", SHARDS * each)
        write_shards(records, folder, [], each)
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        for path in folder.iterdir():
            client.upload_file(str(path), BUCKET, path.name)
        urls = f"s3://{BUCKET}/pairs-{{000000..{SHARDS - 1:06d}}}.tar"
        ways = {
            "local folder": lambda: epoch(str(folder), cache, False),
            "s3, first epoch": lambda: epoch(urls, cache, True),
            "s3, from the cache": lambda: epoch(urls, cache, False),
        }
        seconds = interleave(ways, rounds)
    server.stop()
    note = f"{SHARDS} shards of {each} pairs, {what}; moto on the same cores"
    return [
        Row(
            "shards", f"{way}, {WORKERS} workers", "of the local folder's throughput",
            seconds["local folder"] / seconds[way], target=0.8, seconds=seconds, note=note,
        )
        for way in list(ways)[1:]
    ]  # fmt: skip
