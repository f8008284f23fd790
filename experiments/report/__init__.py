"""The report of a run, or of several side by side: one HTML file that needs nothing else."""

from experiments.report.write import report_finished_run, write_report

__all__ = ["report_finished_run", "write_report"]
