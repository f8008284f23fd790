"""A training step on a GPU: milliseconds by part, one bar for each way."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from figures.style import BLUE, GREEN, INK, LINE, MUTED, ORANGE, PURPLE, RED, SKY, new_figure, styled

COLOURS = {
    "copies": MUTED, "teacher image": BLUE, "teacher text": SKY, "teacher, image and text": BLUE,
    "student image": ORANGE, "student text": RED, "student, image and text": ORANGE, "loss": PURPLE,
    "backward": GREEN, "optimiser": INK,
}  # fmt: skip
LABELLED = 0.06  # of the longest bar: a narrower part has no room for its number


@styled
def gpu_step_figure(parts: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Draw the milliseconds of a step: way -> part -> ms, in the order of the step."""
    figure = new_figure(8, 1.3 + 0.6 * len(parts), title)
    axes = figure.subplots()
    longest = max(sum(own.values()) for own in parts.values())
    named: set[str] = set()
    for row, own in enumerate(parts.values()):
        left = 0.0
        for part, value in own.items():
            # Parts that a compiled model computes in one have the colour of its image tower.
            label = None if part in named else part
            axes.barh(row, value, left=left, color=COLOURS[part], edgecolor=LINE, linewidth=0.5, label=label)
            if value > LABELLED * longest:
                axes.text(
                    left + value / 2, row, f"{value:.0f}", ha="center", va="center", color="white", fontsize=8
                )
            left += value
            named.add(part)
        axes.text(left, row, f" {left:.0f} ms", va="center", fontsize=9)
    axes.set_yticks(range(len(parts)), list(parts))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="ms of a step", xlim=(0, 1.12 * longest))
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    return figure
