"""Measure every stage against its baseline, side by side (``python -m benchmarks``).

usage: sonodistill bench [NAME ...] [--quick | --table]

  --quick    smoke test at tiny sizes; nothing is kept
  --table    write docs/performance.md from the stored results alone
"""

from __future__ import annotations

import subprocess
import sys


def main(argv: list[str]) -> int:
    """Run the benchmarks, a floor above, in a child process and return its exit status."""
    return subprocess.run([sys.executable, "-m", "benchmarks", *argv], check=False).returncode
