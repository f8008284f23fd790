"""Shapes of the simulated anatomy, one body part per file."""
