"""Recipes and the command line: everything that starts a run."""
