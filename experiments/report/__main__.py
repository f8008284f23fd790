"""Command line: ``python -m experiments.report RUN [RUN ...] [--out FILE]``, behind ``make report``."""

from __future__ import annotations

import argparse
import os
import sys

from experiments.child_process import status_for_make


@status_for_make()
def main() -> None:
    """Entry point: prints a user's mistake as one line instead of a traceback."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    parser = argparse.ArgumentParser(
        prog="make report RUN=...", description="Write the report of finished runs."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run: outputs/EXP/RUN")
    parser.add_argument(
        "--out", help="file to write; default: report.html in the run's folder, or outputs/reports/"
    )
    parser.add_argument(
        "--trust", action="store_true", help="build classes of other packages that a run's files name"
    )
    options = parser.parse_args()
    from experiments.report.write import write_report  # behind the parser: --help answers at once
    from models.trust import settle_trust

    settle_trust(sys.argv)

    try:
        print(f"report: {write_report(options.runs, options.out)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
