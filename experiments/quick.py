"""Bounds of a quick run (``QUICK=1``), which only tries whether everything works."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import Namespace

QUICK = "--quick=true"
# In place of what presets and experiments say; the user's own options still override each of them.
BOUNDS = (
    QUICK,
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=4",
    "--trainer.log_every_n_steps=1",
    "--data.most_images=24",
    "--data.batch_size=8",
    "--data.num_workers=0",
    "--biometry.most_prompts=1",
    "--planes.most_prompts=1",
    "--representation.probe_seeds=1",
    "--media.samples=2",
)
CAUTION = "a quick run, of a few images, prompts and steps: its numbers mean nothing"


def is_quick(config: Namespace) -> bool:
    """Tell whether a run is bounded: by ``--quick``, or unless that is false by a limit of Lightning's.

    A share of the training batches is no such limit: a learning curve needs it.

    Args:
        config: The resolved configuration of a subcommand.
    """
    if config.quick is not None:
        return bool(config.quick)
    trainer = config.trainer
    limits = [trainer.overfit_batches, trainer.limit_val_batches, trainer.limit_test_batches]
    counted = [limit for limit in (*limits, trainer.limit_train_batches) if isinstance(limit, int)]
    shares = [limit for limit in limits if isinstance(limit, float)]
    return bool(trainer.fast_dev_run) or any(counted) or any(0 < share < 1 for share in shares)


def with_bounds(arguments: Sequence[str]) -> list[str]:
    """Return LightningCLI's arguments with `BOUNDS` behind the last ``--config``."""
    place = 1  # behind the subcommand
    for number, argument in enumerate(arguments):
        if argument in ("--config", "-c"):
            place = number + 2
        elif argument.startswith(("--config=", "-c=")):
            place = number + 1
    return [*arguments[:place], *BOUNDS, *arguments[place:]]
