"""Ctrl-C and SIGTERM in the midst of an evaluation: they do not wait for its end."""

import os
import signal

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks import BiometryEvaluation, LastCheckpoint
from datamodules import HC18DataModule
from lightning_modules import DistillationModule
from models import TimmEncoder
from tests.callbacks.tiny import quiet_trainer

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("handlers")]


class Signalling(TimmEncoder):
    """Sends this process a signal at the first of many batches of age prompts, and counts them."""

    signum = signal.SIGINT
    batches = 0

    def encode_text(self, tokens):
        if not self.training:  # a training step's texts come in training mode
            self.batches += 1
            if self.batches == 1:
                os.kill(os.getpid(), self.signum)
        return super().encode_text(tokens)


@pytest.mark.parametrize(("function", "signum"), [("fit", signal.SIGINT), ("test", signal.SIGTERM)])
def test_an_evaluation_is_left_at_once(function, signum, tmp_path, tiny_hc18, capsys):
    student = Signalling(
        "repvit_m0_9", {"embed_dim": [8, 8, 16, 16], "depth": [1, 1, 1, 1]}, embed_dim=16, image_size=32,
        context_length=24, text_width=16, text_layers=1, text_heads=2,
    )  # fmt: skip
    student.signum = signum
    trainer = quiet_trainer(
        tmp_path,
        BiometryEvaluation(),
        LastCheckpoint(),
        max_epochs=1,
        num_sanity_val_steps=0,
        enable_checkpointing=True,
    )
    data = HC18DataModule(str(tiny_hc18), batch_size=8, num_workers=0)
    with pytest.raises((SystemExit, KeyboardInterrupt, SIGTERMException)):  # whichever Lightning ends with
        getattr(trainer, function)(DistillationModule(student), datamodule=data)
    assert student.batches == 1
    if function == "fit":
        last = tmp_path / "checkpoints" / "last.ckpt"
        printed = capsys.readouterr().out
        assert f'interrupted; resume with: the same command and ARGS="--ckpt_path={last}"' in printed
        assert last.is_file()
