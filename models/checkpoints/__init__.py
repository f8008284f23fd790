"""Checkpoint layouts, safe loading, inspection and licences."""
