"""Commands of ``python -m experiments``, one a file."""
