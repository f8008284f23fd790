"""Memory of a long run: 1,000 steps and 100 evaluations of tiny towers, by the command a user starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"
WARM_UP = 20  # evaluations: caches and pools fill
MOST_GROWTH = 0.01
MEMORY = """
import ctypes, gc, json
import psutil
from lightning import Callback

class Memory(Callback):
    seen = []
    def on_validation_end(self, trainer, pl_module):
        gc.collect()
        # Gives unused pages back, which would otherwise hide a leak that fits into them.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
        self.seen.append((trainer.global_step, psutil.Process().memory_info().rss))
    def on_train_end(self, trainer, pl_module):
        with open("memory.json", "w") as file:
            json.dump(self.seen, file)
"""


@pytest.mark.slow
@pytest.mark.faults
def test_memory_does_not_grow_over_steps_and_evaluations(tmp_path):
    (tmp_path / "memory.py").write_text(MEMORY)
    command = [
        sys.executable, "-m", "experiments", "fit", f"--config={ROOT}/experiments/recipes/srkd.yaml",
        f"--config={SMALL}", f"--biometry.protocol={SMALL.with_name('phantom_small_prompts.json')}",
        "--data.corpus.num_planes_images=120", "--data.corpus.num_hc18_images=12", "--data.batch_size=4",
        "--data.root=phantom", "--trainer.max_steps=1000", "--trainer.max_epochs=-1",
        "--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=10",
        "--trainer.accelerator=cpu", "--trainer.callbacks+=memory.Memory",
    ]  # fmt: skip
    own = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "MALLOC"))}
    own |= {"PYTHONPATH": f"{ROOT}:{tmp_path}", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((tmp_path / "memory.json").read_text())
    assert len(seen) == 100
    assert seen[-1][0] == 1000
    warm, end = seen[WARM_UP - 1][1], max(memory for _, memory in seen[-5:])
    print(f"{warm / 1e6:.1f} MB after {WARM_UP} evaluations, {end / 1e6:.1f} MB at the end", file=sys.stderr)
    assert end < (1 + MOST_GROWTH) * warm
