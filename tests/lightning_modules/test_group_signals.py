"""A stop signal that reaches every process of a run, as a scheduler or a terminal sends it, reading ones too."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.faults]

RUN = """
import os, subprocess, sys, time
from lightning import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from callbacks import LastCheckpoint
from datamodules.pairs.loaders import PlainErrorLoader


class SignalAll(Callback):
    sent = False

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == 2 and not self.sent:
            self.sent = True
            # From another process: torch's workers know their parent's signals, which mean something else.
            subprocess.run(["kill", f"-{sys.argv[1]}", "--", f"-{os.getpgrp()}"])
            time.sleep(0.3)  # a worker that obeys is dead by now


def loader(**settings):
    return PlainErrorLoader(RandomDataset(32, 64), num_workers=2, **settings)


class Module(BoringModel):
    def train_dataloader(self):
        return loader(persistent_workers=True)


unfinished = iter(loader())
next(unfinished)  # its workers wait for more, as those of an interrupted evaluation do
Trainer(
    default_root_dir=os.getcwd(), max_epochs=1, accelerator="cpu", logger=False, limit_val_batches=0,
    accumulate_grad_batches=8,  # more than were read ahead
    enable_progress_bar=False, enable_model_summary=False,
    callbacks=[SignalAll(), LastCheckpoint()],
).fit(Module())
"""


@pytest.fixture
def runs(tmp_path):
    """Start a run for each signal, side by side, each in a process group of its own."""
    root = Path(__file__).resolve().parents[2]
    started = {}
    for stop in (signal.SIGTERM, signal.SIGINT):
        folder = tmp_path / stop.name
        folder.mkdir()
        # A shell starts its background jobs with Ctrl-C ignored, and they hand that on.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        started[folder] = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{RUN}", str(int(stop))],
            cwd=folder, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        signal.signal(signal.SIGINT, before)
    yield started
    for process in started.values():
        process.kill()


def test_it_is_the_main_process_that_stops_and_its_workers_end_with_it(runs):
    for folder, process in runs.items():
        out, err = process.communicate(timeout=100)
        assert "DataLoader worker" not in err
        last = folder / "checkpoints" / "last.ckpt"
        assert f'interrupted at step 3; resume with: the same command and ARGS="--ckpt_path={last}' in out
        assert torch.load(last, weights_only=True)["global_step"] == 3
