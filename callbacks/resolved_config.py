"""The resolved configuration of a run: config.yaml in its folder, and nested in W&B."""

from __future__ import annotations

from typing import Any

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from callbacks.wandb_run import active_run


class SaveResolvedConfig(SaveConfigCallback):
    """Also put the whole configuration into the W&B run.

    It is nested there as in the YAML files, so that ``schedule.init_args.start`` can be searched, grouped
    and compared under the very name it has on the command line.
    """

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send the configuration to W&B; called on the first rank alone."""
        run = active_run(trainer)
        if run is None:
            return
        config: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        config.pop("config", None)  # names of the files that were merged, no setting
        run.config.update(config, allow_val_change=True)
