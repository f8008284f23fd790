"""Put every image of a patient on the same side of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from datamodules.record import Record


def split_by_patient(
    records: Iterable[Record], *, val_share: float, test_share: float, seed: int
) -> list[Record]:
    """Set `split` of records that have none or "train", from a hash of the patient alone.

    Records of the corpus's own test set stay there. A patient's side does not depend on which other
    patients are present, so adding images never moves one.

    Args:
        records: The corpus.
        val_share: Share of the patients that go to "val".
        test_share: Share that goes to "test".
        seed: Another seed is another split.

    Raises:
        ValueError: The shares leave nothing to train on, or are negative.
    """
    if min(val_share, test_share) < 0 or val_share + test_share >= 1:
        raise ValueError(
            f"val_share {val_share} and test_share {test_share}: both at least 0, together below 1"
        )

    def side(record: Record) -> str:
        if record.split == "test":
            return "test"
        draw = _uniform(f"{seed}/{record.corpus}/{record.patient}")
        if draw < val_share:
            return "val"
        return "test" if draw < val_share + test_share else "train"

    return [replace(record, split=side(record)) for record in records]


def _uniform(key: str) -> float:
    """Map a text to [0, 1), the same on every machine."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64
