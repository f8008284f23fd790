"""Data loaders with exact resuming, workers that survive stop signals, and one-line errors."""

from __future__ import annotations

import atexit
import gc
import signal
import time
import weakref
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader


class PlainErrorLoader(DataLoader):
    """A `DataLoader` that raises a worker's ValueError or OSError as its own one-line message.

    Its workers ignore Ctrl-C, SIGTERM and SIGUSR1, which a terminal or a scheduler sends to all processes: the main
    process stops between two steps, saves a checkpoint, and needs its workers until then.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("worker_init_fn", _start_worker)
        super().__init__(*args, **kwargs)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches: Any = super().__iter__()
        if self.num_workers:
            atexit.register(_end_workers, weakref.ref(batches), batches._workers)
        return _with_plain_errors(batches)


class SampleOrderState:
    """Loader state that checks whether a run resumed within an epoch keeps the order of samples.

    The position itself comes from the trainer's counters (`resume_position`). A run resumed with other settings
    would train on some images twice and on others not at all.

    Attributes:
        order: Everything that determines the order of the samples, by name; primitives.
    """

    order: dict[str, int]

    def state_dict(self) -> dict[str, Any]:
        """Return the settings that determine the order of samples, for a checkpoint."""
        return {"order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare the settings with those of a checkpoint saved within an epoch: a change is a ValueError."""
        saved = state["order"]
        changed = [
            f"{key} was {saved.get(key)} and is {self.order.get(key)}"
            for key in sorted({*saved, *self.order})
            if saved.get(key) != self.order.get(key)
        ]
        if changed:
            raise ValueError(
                f"cannot resume within an epoch: {'; '.join(changed)}; "
                "keep the settings, or resume from a checkpoint of an epoch's end"
            )


class ResumableLoader(SampleOrderState, PlainErrorLoader):
    """Training loader that Lightning recognises as resumable; for `order`, see `SampleOrderState`."""

    def __init__(self, *args: Any, order: dict[str, int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.order = order


def resume_position(trainer: Trainer | None) -> tuple[int, int]:
    """Return the (epoch, batch) at which training starts or continues; (0, 0) without a trainer.

    Lightning restores its counters before it asks for the training loader, but calls the sampler's ``set_epoch`` only
    after the workers have started to read; so the loader has to be built at the right position.
    """
    if trainer is None:
        return 0, 0
    loop = trainer.fit_loop
    epoch: Any = loop.epoch_progress.current
    batches: Any = loop.epoch_loop.batch_progress
    within_epoch = loop.restarting and epoch.processed < epoch.ready
    if not within_epoch:
        return int(epoch.processed), 0
    if batches.is_last_batch:  # saved at the very end of an epoch that was not yet counted
        return int(epoch.processed) + 1, 0
    return int(epoch.processed), int(batches.current.processed)


def _start_worker(_worker: int) -> None:
    gc.freeze()  # collecting would write to all objects of the main process, and so copy them into every worker
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(stop, signal.SIG_IGN)


def _end_workers(reference: weakref.ref[Any], workers: list[Any]) -> None:
    """Kill the remaining workers at exit: Python sends SIGTERM, which they ignore, and would wait forever."""
    batches = reference()
    if batches is not None:
        batches._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _with_plain_errors(batches: Iterator[Any]) -> Iterator[Any]:
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (ValueError, OSError, EOFError) as error:
            own = "Caught " not in str(error)  # as torch begins an error of a worker's code
            if own and isinstance(error, ConnectionError | EOFError) and getattr(batches, "_workers", None):
                # The broken connection of a killed worker is often noticed before its end, which torch's signal handler
                # raises: here, rather than inside the handler of this error.
                time.sleep(1)
                raise RuntimeError(f"DataLoader worker: {type(error).__name__} of its connection") from None
            if isinstance(error, EOFError):
                raise
            # A worker's error arrives as a traceback, whose last line is "ValueError: the message".
            line = str(error).strip().splitlines()[-1].removeprefix(f"{type(error).__name__}: ")
            # Some subclasses need more arguments than a message.
            kinds = (FileNotFoundError, OSError, ValueError)
            raise next(kind for kind in kinds if isinstance(error, kind))(line) from None
        yield batch
