"""Lightning's DistributedDataParallel with one process: NCCL on a GPU, gloo on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu


def test_one_process_of_ddp_trains_as_none(device, tmp_path):
    """In a process of its own, which a library that waits for others cannot hold up for long."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.ddp_process", device, str(tmp_path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["backend"] == ("nccl" if device == "cuda" else "gloo")
    assert found["summed"] == [1.0, 1.0, 1.0]
    assert len(found["ddp"]) == 4
    # The same kernels; a GPU's backward pass adds atomically.
    assert found["ddp"] == pytest.approx(found["alone"], rel=1e-3)
