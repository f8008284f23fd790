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


def test_a_killed_worker_is_reported():
    with Worker(
        {"backend": "matmul", "library": "torch", "threads": 1, "batch": 1, "arithmetic": "float32"}
    ) as worker:
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(RuntimeError, match="matmul: its process ended without an answer"):
            worker.ask(repeats=1)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="/proc shows a process's environment")
def test_a_worker_does_not_see_the_makefiles_allocator(monkeypatch):
    for name in ALLOCATOR:
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with Worker(
        {"backend": "matmul", "library": "torch", "threads": 1, "batch": 1, "arithmetic": "float32"}
    ) as worker:
        seen = Path(f"/proc/{worker._process.pid}/environ").read_text().split("\0")
    assert "OMP_NUM_THREADS=1" in seen
    assert not [entry for entry in seen if entry.split("=")[0] in ALLOCATOR]


def test_a_worker_that_cannot_load_reports_why():
    with pytest.raises(RuntimeError, match="no backend 'nonsense'"):
        Worker({"backend": "nonsense"})


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="/proc shows a process's folder")
def test_a_worker_runs_in_the_users_folder_and_imports_its_classes_last(tmp_path, monkeypatch):
    """A student may have a relative path, or be a class of the user's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise RuntimeError('it shadows a package')")
    spec = {"backend": "matmul", "library": "torch", "threads": 1, "batch": 1, "arithmetic": "float32"}
    with Worker(spec) as worker:
        assert Path(f"/proc/{worker._process.pid}/cwd").resolve() == tmp_path.resolve()
