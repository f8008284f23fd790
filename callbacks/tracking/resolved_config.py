"""Save the resolved configuration of a run: config.yaml in its folder, and W&B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from callbacks.tracking.wandb_run import active_run
from datamodules.redaction import redacted


class SaveResolvedConfig(SaveConfigCallback):
    """Write the configuration, URLs redacted, to the run's folder and to its W&B run.

    In W&B it is nested as in the YAML files: ``schedule.init_args.start`` has the same name as on the command line.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.save_to_log_dir = False  # the folder of the first logger

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the configuration; called on the first rank only."""
        path = Path(trainer.default_root_dir) / self.config_filename
        path.parent.mkdir(parents=True, exist_ok=True)
        resolved = redacted(self.config)
        self.parser.save(resolved, path, skip_none=False, overwrite=True, multifile=self.multifile)
        run = active_run(trainer)
        if run is None:
            return
        config: dict[str, Any] = yaml.safe_load(self.parser.dump(resolved, skip_none=False))
        config.pop("config", None)  # names of the merged files, not a setting
        run.config.update(config, allow_val_change=True)
