"""Read back what an offline W&B run wrote: LevelDB's log format around W&B's own protobuf records.

The framing is read here because the package has had no reader of its own since it dropped
``wandb.sdk.internal.datastore`` (0.31 has none); the records' classes are still W&B's.
"""

import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from wandb.proto import wandb_internal_pb2

BLOCK = 32768
FILE_HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
# What every evaluation of a run with teacher logs on the three benchmarks, spelt out as users filter by it.
SCORES = (
    "planes/f1", "planes/f1_ci_low", "planes/f1_ci_high", "planes/accuracy", "planes/balanced_accuracy", "planes/ece",
    "subplanes/f1", "subplanes/f1_ci_low", "subplanes/f1_ci_high", "subplanes/accuracy",
    "subplanes/balanced_accuracy", "subplanes/ece",
    "hc18/validity", "hc18/validity_ci_low", "hc18/validity_ci_high", "hc18/valid", "hc18/total",
)  # fmt: skip
NUMBERS = (
    *(f"{prefix}/{score}" for prefix in ("val", "val/teacher") for score in SCORES),
    "val/composite", "val/loss/total", "best/composite", "best/planes/f1", "best/subplanes/f1", "best/hc18/validity",
    "best/loss/total", "probe/diagonal_correlation", "probe/off_diagonal_correlation",
)  # fmt: skip
MEDIA = {
    "evaluation/planes": "image-file",  # confusion matrix
    "evaluation/subplanes": "image-file",
    "evaluation/hc18": "image-file",  # ages over head circumferences
    "evaluation/planes-samples": "images/separated",
    "evaluation/subplanes-samples": "images/separated",
    "evaluation/hc18-samples": "images/separated",
    "probe/confusing_pairs": "table-file",
}


class DamagedChunkError(Exception):
    """A chunk's content is not what its checksum says: damaged, or not yet written to its end."""


def _chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = len(FILE_HEADER)
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        if left < 7:  # too little room for a chunk's header: the block is padded
            position += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, position)
        if kind == 0:
            position += left
            continue
        payload = data[position + 7 : position + 7 + length]
        crc = zlib.crc32(payload, zlib.crc32(bytes([kind])))
        masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        if checksum not in (crc, masked):
            raise DamagedChunkError(f"the chunk at byte {position}")
        yield kind, payload
        position += 7 + length


def records(path: Path) -> list[wandb_internal_pb2.Record]:
    """Return every record of a ``.wandb`` file, in order."""
    data = path.read_bytes()
    assert data.startswith(FILE_HEADER), f"{path} is no W&B log"
    found, parts = [], b""
    for kind, payload in _chunks(data):
        parts = payload if kind in (FULL, FIRST) else parts + payload
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            found.append(record)
    return found


class WandbLog:
    """What one offline run logged."""

    def __init__(self, path: Path) -> None:
        self.records = records(path)

    @classmethod
    def only_one(cls, folder: Path) -> "WandbLog":
        # W&B's writer is another process, which may create or flush the file after `finish` has returned.
        reason = "no offline run"
        for _ in range(600):  # a minute, for a busy machine
            for path in (path for path in folder.rglob("*.wandb") if "offline-run" in str(path)):
                try:
                    log = cls(path)
                except (
                    DamagedChunkError,
                    AssertionError,
                ) as damage:  # as a file is while it is being written
                    reason = f"{path} is damaged: {damage}"
                else:
                    if "exit" in log.kinds():
                        return log
                    reason = f"{path} was never finished"
            time.sleep(0.1)
        raise AssertionError(f"{folder}: {reason}")

    def kinds(self) -> list[str]:
        return [record.WhichOneof("record_type") for record in self.records]

    @property
    def run_id(self) -> str:
        return next(record.run.run_id for record in self.records if record.HasField("run"))

    @property
    def exit_code(self) -> int:
        return next(record.exit.exit_code for record in self.records if record.HasField("exit"))

    @property
    def group(self) -> str:
        return next(record.run.run_group for record in self.records if record.HasField("run"))

    @property
    def history(self) -> list[dict[str, object]]:
        rows = []
        for record in self.records:
            if record.HasField("history"):
                items = record.history.item
                rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
        return rows

    def series(self, key: str) -> list[tuple[int, object]]:
        """Return (optimiser step, value) of every row that holds `key`."""
        return [(row["trainer/global_step"], row[key]) for row in self.history if key in row]

    def check_evaluations(self, steps: list[int], folder: Path) -> None:
        """Assert that each evaluation, at these optimiser steps, logged all its numbers and all its files."""
        for key in NUMBERS:
            logged = [step for step, _ in self.series(key)]
            at_the_start = 1 if key.startswith("probe/") else 0
            assert logged[at_the_start:] == steps, key
        for key, kind in MEDIA.items():
            assert self.series(f"{key}/_type") == [(step, kind) for step in steps], key
            names = [name for _, name in self.series(f"{key}/path")]
            names += [name for _, several in self.series(f"{key}/filenames") for name in several]
            assert len(names) >= len(steps), key
            for name in names:
                (path,) = folder.rglob(f"files/{name}")
                assert path.stat().st_size > 0, name

    @property
    def config(self) -> dict[str, object]:
        merged: dict[str, object] = {}
        for record in self.records:
            for part in (record.config, record.run.config):
                for item in part.update:
                    keys = list(item.nested_key) or [item.key]
                    place = merged
                    for key in keys[:-1]:
                        place = place.setdefault(key, {})
                    place[keys[-1]] = json.loads(item.value_json)
        return merged

    @property
    def metric_axes(self) -> dict[str, str]:
        """Return the step axis of every defined metric or glob."""
        metrics = [record.metric for record in self.records if record.HasField("metric")]
        return {metric.name or metric.glob_name: metric.step_metric for metric in metrics}
