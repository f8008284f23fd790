"""Ctrl-C and SIGTERM in the midst of an evaluation, sent to real processes: they do not wait for its end."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = """
import os, sys, time
from pathlib import Path
from lightning import Trainer
from callbacks import BiometryEvaluation, LastCheckpoint, SaveOnInterrupt
from datamodules import HC18DataModule
from lightning_modules import DistillationModule
from models import TimmEncoder


class Slow(TimmEncoder):
    def encode_text(self, tokens):
        if not self.training:  # the age prompts; a training step's texts come in training mode
            Path("evaluating").touch()
            time.sleep(30)  # a batch: all of them take longer than the test waits
        return super().encode_text(tokens)


student = Slow(
    "repvit_m0_9", {"embed_dim": [8, 8, 16, 16], "depth": [1, 1, 1, 1]}, embed_dim=16, image_size=32,
    context_length=24, text_width=16, text_layers=1, text_heads=2,
)
trainer = Trainer(
    default_root_dir=os.getcwd(), max_epochs=1, accelerator="cpu", logger=False, num_sanity_val_steps=0,
    enable_progress_bar=False, enable_model_summary=False,
    callbacks=[BiometryEvaluation(), LastCheckpoint(), SaveOnInterrupt()],
)
data = HC18DataModule(sys.argv[2], batch_size=8, num_workers=0)
getattr(trainer, sys.argv[1])(DistillationModule(student), datamodule=data)
print("the evaluation ended")
"""
# Seconds for the imports, and for a stop: the evaluation takes 13 batches of prompts, 390 s, and more.
START, STOP = 300, 60


@pytest.fixture
def stopped(tmp_path, tiny_hc18):
    """Stop a training and a test in their evaluations; return what each printed, and its folder."""
    root = Path(__file__).resolve().parents[3]
    runs = {}
    # A shell starts its background jobs with Ctrl-C ignored, and they hand that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    for function in ("fit", "test"):
        folder = tmp_path / function
        folder.mkdir()
        code = f"import sys; sys.path.insert(0, {str(root)!r})\n{RUN}"
        runs[function] = folder, subprocess.Popen(
            [sys.executable, "-c", code, function, str(tiny_hc18)],
            cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    yield {
        function: _stop(*run, signum) for (function, run), signum in zip(runs.items(), SIGNALS, strict=True)
    }
    for _, process in runs.values():
        process.kill()


SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _stop(folder, process, signum):
    end = time.monotonic() + START
    while not (folder / "evaluating").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signum)
    began = time.monotonic()
    printed, _ = process.communicate(timeout=STOP)
    print(f"{folder.name}: ended {time.monotonic() - began:.1f} s after {signal.Signals(signum).name}")
    assert "the evaluation ended" not in printed
    return printed, folder


def test_an_evaluation_is_left_at_once(stopped):
    printed, folder = stopped["fit"]
    last = folder / "checkpoints" / "last.ckpt"
    assert f'interrupted; resume with: the same command and ARGS="--ckpt_path={last}"' in printed
    assert last.is_file()
