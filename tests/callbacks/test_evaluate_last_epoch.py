"""An evaluation stands at the end of every training."""

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks import EvaluateLastEpoch


class Evaluated(Callback):
    def __init__(self):
        self.epochs = []

    def on_validation_start(self, trainer, pl_module):
        self.epochs.append(trainer.current_epoch + 1)


@pytest.mark.parametrize(
    ("every", "epochs", "expected"),
    [(2, 5, [2, 4, 5]), (2, 4, [2, 4]), (9, 3, [3]), (1, 2, [1, 2]), (3, 1, [1])],
)
def test_the_last_epoch_is_evaluated_beside_every_nth(every, epochs, expected, tmp_path):
    seen = Evaluated()
    Trainer(
        max_epochs=epochs,
        check_val_every_n_epoch=every,
        limit_train_batches=1,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        callbacks=[EvaluateLastEpoch(), seen],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    ).fit(BoringModel())
    assert seen.epochs == expected
