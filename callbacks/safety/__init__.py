"""Checkpoints, interruption, non-finite losses and random state."""
