"""Quantised variants and their speed check."""
