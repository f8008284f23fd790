"""Parity ledger: figures, gates and task scores of every variant."""
