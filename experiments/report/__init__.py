"""Report of one run or several: one self-contained HTML file."""

from experiments.report.write import report_finished_run, write_report

__all__ = ["report_finished_run", "write_report"]
