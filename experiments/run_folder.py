"""Where a run writes: ``outputs/<experiment>/<run>/``."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

OUTPUTS = Path("outputs")
RUN_VARIABLE = "SONODISTILL_RUN"  # processes of one run are started from one command line and share it


def run_folder(experiment: str, preset: str, seed: int, run: str | None, checkpoint: str | None) -> Path:
    """Choose the folder of a run.

    Args:
        experiment: Name of the experiment.
        preset: Name of the data preset.
        seed: Seed of the run.
        run: The user's own name for the run; None makes one from preset, seed and time.
        checkpoint: Checkpoint that the run resumes from; one that lies in a run folder continues there.

    Returns:
        The folder, not yet created. The same in every process of a run.
    """
    if checkpoint is not None and run is None:
        folder = Path(checkpoint).resolve().parent
        if folder.name == "checkpoints":
            return folder.parent
    if run is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        run = os.environ.setdefault(RUN_VARIABLE, f"{preset}-s{seed}-{stamp}")
    return OUTPUTS / experiment / run
