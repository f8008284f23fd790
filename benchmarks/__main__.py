"""Run every benchmark, or those named: ``python -m benchmarks [--quick] [loss_speed inference ...]``.

``--table`` writes docs/performance.md's table and plots from the results that are there, which a full run does
at its end.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def main() -> None:
    """Run the chosen benchmarks one after the other, each in a process of its own."""
    flags = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    chosen = [argument for argument in sys.argv[1:] if not argument.startswith("-")] or NAMES
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        sys.exit(f"error: no such benchmark {unknown[0]}; choose from: {', '.join(NAMES)}")
    if set(flags) - {"--quick", "--table"}:
        sys.exit(f"error: unknown option {flags[0]}; there are --quick and --table")
    failed = []
    for name in chosen if "--table" not in flags else ():
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *flags], check=False).returncode:
            failed.append(name)
    table = [sys.executable, "-m", "benchmarks._table"]
    if "--quick" not in flags and subprocess.run(table, check=False).returncode:
        failed.append("the table")
    if failed:
        sys.exit(f"error: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
