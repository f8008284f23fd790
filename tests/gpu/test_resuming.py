"""A resumed run on the device equals an unbroken one: weights, moments, loss scale."""

import pytest
import torch
from lightning import Callback

from callbacks import LastCheckpoint
from tests.gpu.conftest import fit, state_of

pytestmark = pytest.mark.gpu


class StopError(Exception):
    """The end of the broken run."""


class StopAfterOneEpoch(Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            raise StopError


class FinalState(Callback):
    """Moments, the number of steps and the loss scale, on the CPU."""

    def on_train_end(self, trainer, module):
        moments = trainer.optimizers[0].state_dict()["state"]
        self.tensors = {f"{k}/{n}": v.cpu().clone() for k, one in moments.items() for n, v in one.items()}
        self.scaler = trainer.precision_plugin.state_dict()
        self.steps = trainer.global_step


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "32-true"])
def test_a_resumed_run_equals_an_unbroken_one(build, device, tmp_path, precision):
    def train(folder, *callbacks, checkpoint=None):
        # Two epochs of two batches. The first float16 step overflows, so that the checkpoint has a scale of its own.
        scaler = None
        if precision == "16-mixed":
            scaler = torch.amp.GradScaler(device, init_scale=2.0**32, backoff_factor=2.0**-20)
        module, final = build(), FinalState()
        callbacks = [*callbacks, final, LastCheckpoint()]
        losses = fit(
            module,
            device,
            folder,
            callbacks,
            checkpoint,
            precision=precision,
            scaler=scaler,
            deterministic="warn",
        )
        return losses, {**state_of(module), **final.tensors}, final

    whole, repeated = train(tmp_path / "whole"), train(tmp_path / "repeated")
    with pytest.raises(StopError):
        train(tmp_path / "cut", StopAfterOneEpoch())
    rest = train(tmp_path / "cut", checkpoint=tmp_path / "cut" / "checkpoints" / "last.ckpt")
    assert whole[2].steps == rest[2].steps == 4
    assert whole[2].scaler == rest[2].scaler
    if precision == "16-mixed":
        assert whole[2].scaler["scale"] < 2.0**32
    # Exactly, unless the device does not even repeat an unbroken run exactly.
    exact = whole[0] == repeated[0] and all(
        torch.equal(value, repeated[1][n]) for n, value in whole[1].items()
    )
    assert exact or device != "cpu"
    assert rest[1].keys() == whole[1].keys()
    if exact:
        assert rest[0] == whole[0][2:]
        assert [name for name, value in rest[1].items() if not torch.equal(value, whole[1][name])] == []
    else:  # AdamW's first steps have the size of the learning rate, 1e-3, also where a gradient is rounding noise
        assert rest[0] == pytest.approx(whole[0][2:], rel=2e-2)
        for name in state_of(build()):
            torch.testing.assert_close(rest[1][name], whole[1][name], rtol=0, atol=8e-3, msg=name)
