"""Sweeps: one W&B sweep file, run by W&B's agents or, without an account, by Optuna on this machine."""
