"""``sonodistill list``: print the experiments and data presets."""

from __future__ import annotations

from experiments.recipe_files import experiment_choices, preset_names


def main(argv: list[str]) -> None:  # noqa: ARG001
    """Print the names that ``EXP=`` and ``DATA=`` take."""
    print("experiments (EXP=):", *experiment_choices())
    print("data presets (DATA=):", *preset_names())
