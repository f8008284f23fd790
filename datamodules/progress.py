"""Progress of long computations: a bar in a terminal, a line every half minute in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

QUIET_SECONDS = 5.0  # computations that take less show no bar
TERMINAL_SECONDS, LOG_SECONDS = 0.2, 30.0  # between two updates of a bar, and between two lines of a log
Progress = Callable[[int, int], None]


@contextmanager
def show_progress(what: str, unit: str, quiet: bool = False) -> Iterator[Progress]:
    """Yield a function of (done, total) that shows the progress and the time left, unless `quiet`.

    `unit` is plural, with a leading space.
    """
    if not sys.stderr.isatty():
        yield _lines(what, unit, quiet)
        return
    with tqdm(
        desc=what, unit=unit, delay=QUIET_SECONDS, mininterval=TERMINAL_SECONDS, leave=False, disable=quiet
    ) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def _lines(what: str, unit: str, quiet: bool) -> Progress:
    started = said = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= LOG_SECONDS and not quiet:
            said = now
            left = (now - started) * (total - done) / max(done, 1)
            print(f"{what}: {done} of {total}{unit}, {left:.0f} s left", file=sys.stderr, flush=True)

    return update
