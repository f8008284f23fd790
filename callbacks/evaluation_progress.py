"""Progress of long evaluations, with the time that is left."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader
from tqdm import tqdm

from models.zero_shot import Progress

QUIET_SECONDS = 5.0
"""An evaluation that is over sooner shows nothing."""
TERMINAL_SECONDS, LOG_SECONDS = 0.2, 30.0
"""Between two drawings of a bar."""


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Progress]:
    """Yield a function of (done, total) that draws a bar with the time left, on the first process only.

    In a terminal the bar is redrawn all the time; in a log file a line is written every half minute.

    Args:
        what: What is being done, for people.
        unit: Name of a unit, in the plural with a blank before it.
    """
    with tqdm(
        desc=what,
        unit=unit,
        delay=QUIET_SECONDS,
        mininterval=TERMINAL_SECONDS if sys.stderr.isatty() else LOG_SECONDS,
        leave=False,
        disable=getattr(rank_zero_only, "rank", 0) != 0,
    ) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def with_progress(loader: DataLoader, what: str) -> Iterator[dict[str, Any]]:
    """Yield the batches of a loader, of this process, under a progress bar."""
    with progress_bar(what, " batches") as progress:
        for done, batch in enumerate(loader, start=1):
            yield batch
            progress(done, len(loader))
