"""Progress of long evaluations, with the time that is left."""

from __future__ import annotations

import sys
import time
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
"""Between two drawings of a bar, and between two lines of a log."""


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Progress]:
    """Yield a function of (done, total) that shows the progress with the time left, on the first process only.

    In a terminal a bar is redrawn all the time; elsewhere a plain line is written every half minute.

    Args:
        what: What is being done, for people.
        unit: Name of a unit, in the plural with a blank before it.
    """
    silent = getattr(rank_zero_only, "rank", 0) != 0
    if not sys.stderr.isatty():
        yield _lines(what, unit, silent)
        return
    with tqdm(
        desc=what, unit=unit, delay=QUIET_SECONDS, mininterval=TERMINAL_SECONDS, leave=False, disable=silent
    ) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def _lines(what: str, unit: str, silent: bool) -> Progress:
    started = said = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= LOG_SECONDS and not silent:
            said = now
            left = (now - started) * (total - done) / max(done, 1)
            print(f"{what}: {done} of {total}{unit}, {left:.0f} s left", file=sys.stderr, flush=True)

    return update


def with_progress(loader: DataLoader, what: str) -> Iterator[dict[str, Any]]:
    """Yield the batches of a loader, of this process, under a progress bar."""
    with progress_bar(what, " batches") as progress:
        for done, batch in enumerate(loader, start=1):
            yield batch
            progress(done, len(loader))
