"""Write one HTML file about finished runs."""

from __future__ import annotations

from experiments.process import Parser


def main(argv: list[str]) -> None:
    """Write the report and print its path."""
    parser = Parser(prog="sonodistill report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run: outputs/EXP/RUN")
    parser.add_argument(
        "--out", help="file to write; default: report.html in the run's folder, or outputs/reports/"
    )
    parser.add_argument(
        "--trust", action="store_true", help="build classes of other packages that a run's files name"
    )
    options = parser.parse_args(argv)
    from experiments.report.write import write_report  # behind the parser: --help answers at once
    from models.checkpoints.trust import settle_trust

    settle_trust(argv)
    print(f"report: {write_report(options.runs, options.out)}")
