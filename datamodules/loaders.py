"""Data loaders that resume where a run stopped, outlive its stop signals, and whose errors read like errors."""

from __future__ import annotations

import atexit
import signal
import weakref
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader


class PlainErrorLoader(DataLoader):
    """A `DataLoader` that raises a worker's ValueError or OSError as its own one-line message.

    Its workers leave Ctrl-C and SIGTERM to the main process. A scheduler or a terminal sends them to all
    processes of a run, and one that stops between two steps to save a checkpoint needs its workers until then.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("worker_init_fn", _leave_signals_to_the_main_process)
        super().__init__(*args, **kwargs)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches: Any = super().__iter__()
        if self.num_workers:
            atexit.register(_end_workers, weakref.ref(batches), batches._workers)
        return _with_plain_errors(batches)


class ResumableLoader(PlainErrorLoader):
    """A training loader that Lightning knows to be resumable.

    The position itself comes from the trainer's counters (`resume_position`). What is stored here is what
    the order depends on, so that a run resumed within an epoch with other settings fails instead of
    training on some images twice and on others not at all.

    Args:
        order: Everything that decides the order of the samples, by name; primitives.
        **kwargs: For `DataLoader`.
    """

    def __init__(self, *args: Any, order: dict[str, int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._order = order

    def state_dict(self) -> dict[str, Any]:
        """Return what the order of samples depends on."""
        return {"order": self._order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that this loader continues the order of a checkpoint saved within an epoch.

        Raises:
            ValueError: Something that the order depends on has changed.
        """
        check_same_order(state["order"], self._order)


def check_same_order(saved: dict[str, int], current: dict[str, int]) -> None:
    """Compare what two loaders' orders depend on.

    Raises:
        ValueError: They differ.
    """
    changed = [
        f"{key} was {saved.get(key)} and is {current.get(key)}"
        for key in sorted({*saved, *current})
        if saved.get(key) != current.get(key)
    ]
    if changed:
        raise ValueError(
            f"cannot resume within an epoch: {'; '.join(changed)}; "
            "keep the settings, or resume from a checkpoint of an epoch's end"
        )


def resume_position(trainer: Trainer | None) -> tuple[int, int]:
    """Return the (epoch, batch) at which training begins or goes on.

    Lightning restores its counters before it asks for the training loader, but tells the sampler the epoch
    only after the workers have begun to read; so the loader has to be built at the right place.

    Args:
        trainer: The running trainer; None without one.
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


def _leave_signals_to_the_main_process(_worker: int) -> None:
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)


def _end_workers(reference: weakref.ref[Any], workers: list[Any]) -> None:
    """End what still reads when Python exits: with SIGTERM, which they ignore, it would wait for them for ever."""
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
        except (ValueError, OSError) as error:
            # A worker's error arrives as a traceback, whose last line is "ValueError: the message".
            line = str(error).strip().splitlines()[-1].removeprefix(f"{type(error).__name__}: ")
            raise _plain_kind(error)(line) from None
        yield batch


def _plain_kind(error: Exception) -> type[Exception]:
    """The nearest error class that takes a message alone; some subclasses want more arguments."""
    return next(kind for kind in (FileNotFoundError, OSError, ValueError) if isinstance(error, kind))
