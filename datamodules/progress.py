"""Progress of long computations: a bar in a terminal, a line every half minute in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

QUIET_SECONDS = 5.0  # computations that take less show no bar
TERMINAL_SECONDS, LOG_SECONDS = 0.2, 30.0  # between two updates of a bar, and between two lines of a log
Progress = Callable[[int, int], None]
T = TypeVar("T")


@contextmanager
def show_progress(what: str, unit: str, quiet: bool = False, start: int = 0) -> Iterator[Progress]:
    """Yield a function of (done, total) that shows the progress and the time left, unless `quiet`.

    `unit` is plural, with a leading space. `start` were done by an earlier call.
    """
    if not sys.stderr.isatty():
        yield _lines(what, unit, quiet, start)
        return
    with tqdm(
        desc=what, unit=unit, initial=start, delay=QUIET_SECONDS, mininterval=TERMINAL_SECONDS, leave=False,
        disable=quiet,
    ) as bar:  # fmt: skip

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def with_progress(items: Iterable[T], total: int, what: str, unit: str, start: int = 0) -> Iterator[T]:
    """Yield items and show the progress, as `show_progress` does."""
    with show_progress(what, unit, start=start) as progress:
        for done, item in enumerate(items, start + 1):
            yield item
            progress(done, total)


def _lines(what: str, unit: str, quiet: bool, start: int) -> Progress:
    started = said = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= LOG_SECONDS and not quiet:
            said = now
            left = (now - started) * (total - done) / max(done - start, 1)
            print(f"{what}: {done} of {total}{unit}, {left:.0f} s left", file=sys.stderr, flush=True)

    return update
