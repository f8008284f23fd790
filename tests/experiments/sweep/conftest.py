"""The working directory of tests that run sweeps."""

import pytest

from experiments.sweep import local_runner


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local_runner, "POLL_S", 0.02)
