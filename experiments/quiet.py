"""Silence what other libraries print about themselves; their errors, and warnings of Lightning, stay."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

from wandb.sdk import wandb_setup

# What Lightning warns of although it is meant so, or is between Lightning and torch.
EXPECTED_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode at the start of training",  # the frozen teacher
    r"Experiment logs directory .* exists and is not empty",  # config.yaml is written before the metrics
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)
WANDB_QUIET = {"WANDB_QUIET": "true", "WANDB_SHOW_INFO": "false", "WANDB_SHOW_WARNINGS": "false"}


def quieten_libraries() -> None:
    """Silence banners, tips and device lists. To see W&B's: ``WANDB_SHOW_INFO=true WANDB_QUIET=false``."""
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"  # one line, without the source code
    for variable, value in WANDB_QUIET.items():
        os.environ.setdefault(variable, value)
    _ = wandb_setup.singleton().settings  # loads them; a logger's arguments are judged before W&B would
    # On a full disk W&B's threads report every record that they cannot log or send; the run's own error is enough.
    logging.raiseExceptions = False
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    for name in ("lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Keep warnings, messages of our own, and those of Lightning's callbacks, which a user turns on."""
    folders = Path(record.pathname).parts
    return record.levelno > logging.INFO or "lightning" not in folders or "callbacks" in folders
