"""Number of usable processor cores, and pools of processes on them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def usable_cores() -> int:
    """Return the number of cores that this process may use; a container or ``taskset`` may allow only some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of fresh interpreters with one OpenCV thread each, which end with this process if it is killed."""
    # Not forked: a fork of a process with running OpenCV threads hangs.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)


def _start_worker() -> None:
    import cv2

    cv2.setNumThreads(1)
    # An idle worker waits for work forever: it holds the other end of its own queue.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
