"""A run that stops on a loss that is not finite leaves the step, and the step can be repeated."""

import math
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning import Callback
from torch.utils.data import DataLoader

from callbacks import OffDiagonalSchedule, StepSeed, StopOnNonFiniteLoss
from experiments.replay import replay
from lightning_modules import DistillationModule
from losses import SRKDLoss
from models import TimmEncoder
from models.checkpoints.integrity import tensors_digest
from models.loading import student_entry
from tests.callbacks.tiny import quiet_trainer

TOWERS = {
    "trunk": "vit_convstem_femto", "trunk_args": {"embed_dim": 32, "depth": 2, "drop_path_rate": 0.5},
    "embed_dim": 16, "image_size": 32, "context_length": 24, "text_width": 16, "text_layers": 1, "text_heads": 2,
}  # fmt: skip
STOPS_AT = 2


class Spoil(Callback):
    """Put one NaN into the images of a batch, and remember the weights that saw it."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == STOPS_AT:
            batch["student_image"][1, 0, 3, 4] = math.nan
            self.weights = {
                f"student.{n}": p.detach().clone() for n, p in pl_module.student.named_parameters()
            }


@pytest.fixture
def stopped(tmp_path):
    """Train until the loss is not finite; return the run's folder, the module and the callback."""
    module, spoil = stop(
        tmp_path, rf"not finite at step 2 .* {sys.executable} -m experiments replay \S+/nonfinite repeats"
    )
    return tmp_path, module, spoil


def stop(tmp_path, message, **options):
    pixels = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(12)[:, None].expand(12, 24) % 50 + 4
    pairs = [
        {"student_image": i, "teacher_image": i, "student_tokens": t, "teacher_tokens": t, "name": "a"}
        for i, t in zip(pixels, tokens, strict=True)
    ]
    torch.manual_seed(0)
    teacher = TimmEncoder(**TOWERS)
    kept = tmp_path / "teacher.ckpt"
    module = DistillationModule(
        TimmEncoder(**TOWERS), teacher, SRKDLoss(), learning_rate=1e-2, warmup_steps=0
    )
    state = {f"student.{name}": value for name, value in teacher.state_dict().items()}
    torch.save({"state_dict": state, "student": student_entry(teacher)}, kept)
    model = {
        "teacher": {"class_path": "models.from_checkpoint", "init_args": {"path": str(kept)}},
        "loss": {"class_path": "losses.SRKDLoss"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    spoil = Spoil()
    trainer = quiet_trainer(
        tmp_path, OffDiagonalSchedule(), spoil, StepSeed(3), StopOnNonFiniteLoss(), max_epochs=1, **options
    )
    with pytest.raises(ValueError, match=message) as error:
        trainer.fit(module, DataLoader(pairs, batch_size=4))
    assert "\n" not in str(error.value)
    return module, spoil


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_a_full_disk_does_not_hide_which_term_was_not_finite(tmp_path, monkeypatch):
    @contextmanager
    def full(_):
        yield Path("/dev/full")

    monkeypatch.setattr("callbacks.safety.steps.atomic", full)
    stop(tmp_path, r"not finite at step 2 \(total=nan, .*not captured \(.*No space left")


class Foreign(SRKDLoss):
    """A loss of another package."""


@pytest.fixture
def refusal(tmp_path, monkeypatch):
    """Give the callback a loss; return its error, and the names of the captured steps."""
    captured = []
    monkeypatch.setattr(StopOnNonFiniteLoss, "_capture", lambda _, *given: captured.append(given[-1].name))
    (tmp_path / "checkpoints").mkdir()

    def refusal(value=math.nan, kept=(), loss=None, **more):
        for name in kept:
            (tmp_path / "checkpoints" / name).touch()
        trainer = {"default_root_dir": tmp_path, "global_step": 2, "global_rank": 0, "precision": "32-true"}
        value = torch.tensor(value)
        module = SimpleNamespace(
            student=SRKDLoss(), teacher=None, loss=loss or SRKDLoss(), terms={"total": value}
        )
        with pytest.raises(ValueError, match="the loss is not finite") as error:
            StopOnNonFiniteLoss().on_before_backward(SimpleNamespace(**trainer | more), module, value)
        return str(error.value), captured

    return refusal


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_infinite_stops_as_nan_does(refusal, value):
    assert f"(total={value})" in refusal(value)[0]


def test_the_error_names_the_finished_checkpoints(refusal):
    assert "kept checkpoints: none yet;" in refusal()[0]
    kept = re.search(
        "kept checkpoints: (.*?);", refusal(kept=["last.ckpt", "best.ckpt", ".best.ckpt.part.ckpt"])[0]
    )
    assert [Path(name).name for name in kept[1].split(", ")] == ["best.ckpt", "last.ckpt"]


def test_every_process_captures_a_file_of_its_own(refusal):
    assert [refusal(global_rank=rank)[1][-1] for rank in (0, 3)] == ["rank0.pt", "rank3.pt"]


def test_the_command_trusts_classes_of_other_packages_where_there_are_any(refusal):
    assert "--trust repeats" in refusal(loss=Foreign())[0]
    assert "--trust" not in refusal()[0]


@pytest.mark.parametrize(
    ("precision", "half"), [("16-mixed", True), ("bf16-mixed", False), ("32-true", False)]
)
def test_only_float16_is_told_of_bfloat16(refusal, precision, half):
    assert ("--trainer.precision=bf16-mixed" in refusal(precision=precision)[0]) == half


def test_the_captured_step_holds_batch_step_random_state_and_weights(stopped):
    folder, _, spoil = stopped
    step = torch.load(folder / "nonfinite" / "rank0.pt", weights_only=True)
    assert (step["step"], step["epoch"], step["batch_number"]) == (STOPS_AT, 0, STOPS_AT)
    assert step["batch"]["student_image"].isnan().sum() == 1
    assert step["processes"] == 1
    assert step["weights"] == tensors_digest(step["state_dict"])
    for name, value in spoil.weights.items():
        assert torch.equal(step["state_dict"][name], value), f"{name}: no step was made with the loss"
    assert not any(name.startswith("teacher.") for name in step["state_dict"])


def test_replay_repeats_the_step_and_names_what_is_not_finite(stopped, capsys, monkeypatch):
    folder, module, _ = stopped
    assert replay([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert f"step {STOPS_AT} (epoch 0, batch {STOPS_AT}), weights " in printed
    assert "total: nan, in the run nan" in printed
    assert "not finite: student_image, 1 of 12288 numbers" in printed
    # A step with finite numbers shows that stochastic depth and the scheduled weight are repeated, too.
    path = folder / "nonfinite" / "rank0.pt"
    step = torch.load(path, weights_only=True)
    step["batch"]["student_image"] = step["batch"]["student_image"].nan_to_num(0.5)
    setattr(module.loss, module.loss.scheduled, step["scheduled"])
    clean = {name: value.nan_to_num(0.0, 0.0, 0.0) for name, value in step["state_dict"].items()}
    module.load_state_dict(clean, strict=False)
    torch.set_rng_state(step["random"])
    module.train()
    step["terms"] = {
        name: float(value.detach()) for name, value in module.compute_loss(step["batch"]).items()
    }
    step["state_dict"], step["weights"] = clean, tensors_digest(clean)
    torch.save(step, path)
    assert replay([str(path)]) == 0
    assert "processes" not in capsys.readouterr().out
    step["terms"]["total"] += 0.01
    step["processes"] = 2
    torch.save(step, path)
    assert replay([str(path)]) == 1
    assert "of 2 processes this repeats one" in capsys.readouterr().out
    del step["terms"]["diagonal"]
    torch.save(step, path)
    assert replay([str(path)]) == 1, "the loss has other terms than the run's"


def test_a_step_in_true_half_precision_is_repeated_in_it(tmp_path, capsys):
    stop(tmp_path, "not finite at step 2", precision="bf16-true")
    assert replay([str(tmp_path)]) == 0
    assert "not finite: student_image, 1 of 12288 numbers" in capsys.readouterr().out


def test_a_folder_without_a_captured_step_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path}/nonfinite/rank0\.pt: no such file[^\n]*$"):
        replay([str(tmp_path)])
