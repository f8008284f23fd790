"""Latency of an export: backends timed in turns in separate processes, and compared with budgets."""
