"""An evaluation stands at the end of every training."""

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks import EvaluateLastEpoch


class Evaluated(Callback):
    def __init__(self):
        self.epochs, self.steps = [], []

    def on_validation_start(self, trainer, pl_module):
        self.epochs.append(trainer.current_epoch + 1)
        self.steps.append(trainer.global_step)


def evaluated(folder, **settings):
    seen = Evaluated()
    Trainer(
        limit_val_batches=1,
        num_sanity_val_steps=0,
        callbacks=[EvaluateLastEpoch(), seen],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,
    ).fit(BoringModel())
    return seen


@pytest.mark.parametrize(
    ("every", "epochs", "expected"),
    [(2, 5, [2, 4, 5]), (2, 4, [2, 4]), (9, 3, [3]), (1, 2, [1, 2]), (3, 1, [1])],
)
def test_the_last_epoch_is_evaluated_beside_every_nth(every, epochs, expected, tmp_path):
    seen = evaluated(tmp_path, max_epochs=epochs, check_val_every_n_epoch=every, limit_train_batches=1)
    assert seen.epochs == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_steps": 3}, [3]),
        ({"max_steps": 11, "check_val_every_n_epoch": 2}, [8, 11]),
        ({"max_steps": 8, "check_val_every_n_epoch": 3}, [8]),
        ({"max_steps": 4, "accumulate_grad_batches": 2, "max_epochs": 9}, [2, 4]),
        ({"max_steps": 7, "val_check_interval": 3, "check_val_every_n_epoch": None}, [3, 6, 7]),
        ({"max_steps": 99, "max_epochs": 1}, [4]),
    ],
)
def test_a_training_that_max_steps_ends_is_evaluated_at_its_last_step(settings, expected, tmp_path):
    assert evaluated(tmp_path, limit_train_batches=4, **settings).steps == expected
