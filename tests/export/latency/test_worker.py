"""The worker process: simulated live scans, cold start, death, and its environment."""

from pathlib import Path

import pytest

from export.latency.worker import ALLOCATOR, Worker, play_scan


class Clock:
    """Simulated time."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += seconds


@pytest.mark.parametrize(
    ("fps", "work_ms", "processed"),
    [(30, 5, 60), (30, 33, 60), (60, 10, 120), (60, 33.4, 60), (30, 100, 20), (60, 50, 40)],
)
def test_dropped_frames_of_a_live_scan(fps, work_ms, processed):
    clock = Clock()
    scan = play_scan(lambda: clock.pass_(work_ms / 1e3), fps, 2.0, clock, clock.pass_)
    assert scan["frames"] == 2 * fps
    # One frame more or less: whether the last one is reached depends on where the busy time ends.
    assert abs(scan["processed"] - processed) <= 1
    assert scan["dropped"] == scan["frames"] - scan["processed"]
    assert scan["delay_p50_ms"] >= work_ms - 1e-6
    assert scan["delay_p95_ms"] <= work_ms + 1e3 / fps + 1e-6


def test_a_workers_surroundings_and_its_death(tmp_path, monkeypatch):
    """It runs in the user's folder, whose classes it imports last, and without the Makefile's allocator."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise RuntimeError('it shadows a package')")
    for name in ALLOCATOR:
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spec = {"backend": "matmul", "library": "torch", "threads": 1, "batch": 1, "arithmetic": "float32"}
    with Worker(spec) as worker:
        process = Path(f"/proc/{worker._process.pid}")
        if process.exists():  # not on a Mac
            assert (process / "cwd").resolve() == tmp_path.resolve()
            seen = (process / "environ").read_text().split("\0")
            assert "OMP_NUM_THREADS=1" in seen
            assert not [entry for entry in seen if entry.split("=")[0] in ALLOCATOR]
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(RuntimeError, match="matmul: its process ended without an answer"):
            worker.ask(repeats=1)
