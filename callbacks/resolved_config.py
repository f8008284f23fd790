"""The resolved configuration of a run: config.yaml in its folder, and nested in W&B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from callbacks.wandb_run import active_run
from datamodules.redaction import redacted


class SaveResolvedConfig(SaveConfigCallback):
    """Write the whole configuration, URLs redacted, into the run's folder, whatever its loggers, and its W&B run.

    It is nested in W&B as in the YAML files, so that ``schedule.init_args.start`` can be searched, grouped
    and compared under the very name it has on the command line.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.save_to_log_dir = False  # that is the folder of the first logger

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the configuration; called on the first rank alone."""
        path = Path(trainer.default_root_dir) / self.config_filename
        path.parent.mkdir(parents=True, exist_ok=True)
        resolved = redacted(self.config)
        self.parser.save(resolved, path, skip_none=False, overwrite=True, multifile=self.multifile)
        run = active_run(trainer)
        if run is None:
            return
        config: dict[str, Any] = yaml.safe_load(self.parser.dump(resolved, skip_none=False))
        config.pop("config", None)  # names of the files that were merged, no setting
        run.config.update(config, allow_val_change=True)
