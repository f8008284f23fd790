"""The average of the student's weights against one computed here, in evaluations, checkpoints and resumed runs."""

from pathlib import Path

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import EMAWeightAveraging, LastCheckpoint
from tests.callbacks.tiny import TinyData, TinyModule, quiet_trainer


class Recorder(Callback):
    """The student's weights after every optimiser step, and in every validation."""

    def __init__(self):
        self.trained, self.validated, self._step = [], [], 0

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.trained.append(weights(module))

    def on_validation_epoch_end(self, trainer, module):
        self.validated.append(weights(module))
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "within.ckpt")


def vector(state):
    """Return all numbers of a state, the statistics of batch norms included, without the counts of batches."""
    return torch.cat([value.flatten() for value in state.values() if value.is_floating_point()])


def weights(module):
    return vector(module.student.state_dict()).double()


def saved(path):
    state = torch.load(path, weights_only=True)
    student = {name: state["state_dict"][f"student.{name}"] for name in state["trained_student"]}
    assert {int(part["image.1.num_batches_tracked"]) for part in (student, state["trained_student"])} == {8}
    return [vector(part) for part in (student, state["trained_student"])]


def train(folder, epochs, *, checkpoint=None, averaging=True, best=None, **options):
    module, recorder = TinyModule(), Recorder()
    module.student.image = torch.nn.Sequential(module.student.image, torch.nn.BatchNorm1d(6))
    # Validation ends before and after the callbacks that see it: neither order may matter.
    trainer = quiet_trainer(
        folder, recorder, *[EMAWeightAveraging(0.8)][:averaging], Recorder(),
        ModelCheckpoint(folder, save_last=True, **best or {}), LastCheckpoint(),
        max_epochs=epochs, num_sanity_val_steps=0, enable_checkpointing=True, **options,
    )  # fmt: skip
    trainer.fit(module, TinyData(), ckpt_path=checkpoint, weights_only=True)
    return trainer, module, recorder


def averages(trained):
    average, all_of_them = trained[0], []
    for one in trained:
        average = 0.8 * average + 0.2 * one
        all_of_them.append(average)
    return all_of_them


@pytest.mark.parametrize("accumulated", [1, 2])
def test_evaluations_checkpoints_and_the_trained_student_are_the_average(tmp_path, accumulated):
    trainer, module, recorder = train(tmp_path, 2, accumulate_grad_batches=accumulated)
    expected = averages(recorder.trained)
    steps = 4 // accumulated
    assert len(expected) == 2 * steps
    for one in (recorder, trainer.callbacks[2]):
        for validated, wanted in zip(one.validated, (expected[steps - 1], expected[-1]), strict=True):
            torch.testing.assert_close(validated, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights(module), expected[-1], rtol=1e-5, atol=1e-6)
    for name in ("last.ckpt", "within.ckpt"):
        average, trained = saved(tmp_path / name)
        torch.testing.assert_close(average.double(), expected[-1], rtol=1e-5, atol=1e-6)
        assert torch.equal(trained.double(), recorder.trained[-1])


def test_the_average_of_a_half_precision_training_is_not_rounded_at_every_step(tmp_path):
    _, module, recorder = train(tmp_path, 2, precision="bf16-true")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    average = vector(state["average_student"])
    torch.testing.assert_close(average.double(), averages(recorder.trained)[-1], rtol=1e-5, atol=1e-6)
    saved_average, _ = saved(tmp_path / "last.ckpt")
    assert torch.equal(saved_average, average.bfloat16())
    assert torch.equal(weights(module), average.bfloat16().double())


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_resumed_training_equals_an_unbroken_one(tmp_path, precision):
    _, whole, recorder = train(tmp_path / "whole", 3, precision=precision)
    train(tmp_path / "part", 1, precision=precision)
    last = tmp_path / "part" / "last.ckpt"
    _, resumed, rest = train(tmp_path / "part", 3, checkpoint=last, precision=precision)
    assert torch.equal(weights(whole), weights(resumed))
    assert all(torch.equal(*pair) for pair in zip(recorder.trained[4:], rest.trained, strict=True))


def test_an_evaluation_of_a_checkpoint_is_of_the_average(tmp_path):
    trainer, module, recorder = train(tmp_path, 1)
    trainer.validate(module, TinyData(), ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False)
    assert torch.equal(recorder.validated[-1], recorder.validated[0])
    assert torch.equal(weights(module), recorder.validated[0])


def test_a_decay_of_1_is_refused():
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1, not 1"):
        EMAWeightAveraging(1.0)


def test_checkpoints_of_weights_only_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^EMAWeightAveraging: checkpoint\.save_weights_only .* remove it$"):
        train(tmp_path, 1, best={"save_weights_only": True})


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize(
    ("before", "message"),
    [(True, "add callbacks.EMAWeightAveraging"), (False, "began without it; remove it")],
)
def test_a_resumed_training_neither_drops_nor_adds_the_average(tmp_path, before, message):
    train(tmp_path, 1, averaging=before)
    with pytest.raises(ValueError, match=message):
        train(tmp_path, 2, averaging=not before, checkpoint=tmp_path / "last.ckpt")
