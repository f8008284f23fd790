"""The tiled form of SRKD, in Triton's interpreter. tests/gpu runs it on a card."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.skipif(
    not find_spec("triton"), reason="Triton is not installed: torch brings it for CUDA on Linux"
)
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_tiled_form_equals_the_plain_one_in_the_interpreter(which):
    """In a process of its own: Triton asks for the interpreter when it is first imported."""
    cases = Path(__file__).with_name("tiled_cases.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "-m",
        which,
        cases,
    ]
    settings = {"TRITON_INTERPRET": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
