"""Suites of runs over seeds and the table of their results."""
