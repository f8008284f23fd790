"""Palette and style of every figure, written as PNG or as SVG that takes a web page's colours."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's colours, distinct to colour-blind readers, darkened to a contrast of 3 or more on white.
PALETTE = {
    "ink": "#1b1f24", "muted": "#5a6472", "line": "#dfe3e8", "paper": "#ffffff", "blue": "#0072b2",
    "orange": "#c27c00", "green": "#00855f", "purple": "#a8528a", "red": "#c64e00", "sky": "#2f8fc4",
}  # fmt: skip
INK, MUTED, LINE, PAPER, BLUE, ORANGE, GREEN, PURPLE, RED, SKY = PALETTE.values()
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
LONGEST_LABEL = 22  # characters
DPI = 170

STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar sign in a class name is a dollar sign
    "svg.fonttype": "none",  # text stays text: searchable, and readable by a screen reader
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "axes.facecolor": "none",
}
styled = mpl.rc_context(STYLE)  # decorator of a function that draws


def new_figure(width: float = 5.0, height: float = 3.2, title: str = "") -> Figure:
    """Return an empty figure without pyplot: no global state, no display; a phone shows five inches at real size.

    The title stands over the whole figure: above one narrow panel beside long labels it would be cut off.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=9.5, color=INK)
    return figure


@styled
def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG on white."""
    figure.savefig(path, dpi=DPI, format="png")


def themed_svg(figure: Figure, label: str) -> str:
    """Return a figure as an ``<svg>`` element whose colours are the page's CSS variables ``--ink``, ``--blue``, ...

    Args:
        figure: A figure of this package.
        label: What it shows; read out by screen readers, and unique on the page: identifiers derive from it.
    """
    salt = hashlib.sha1(label.encode(), usedforsecurity=False).hexdigest()[:8]
    stream = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure.savefig(stream, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for tag in ("metadata", "style"):
        text = re.sub(rf"<{tag}\b.*?</{tag}>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{salt}", text)
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    for name, colour in PALETTE.items():
        text = text.replace(colour, f"var(--{name})")
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(label)}">{rest}'


def looks(*colours: str) -> Iterator[tuple[str, str]]:
    """Yield (colour, line style): the colours with solid lines, then with dashed ones, and so on without end."""
    return ((colour, line) for line in itertools.cycle(("-", "--", ":", "-.")) for colour in colours)


def brief(names: Sequence[str]) -> list[str]:
    """Shorten names to what an axis has room for."""
    return [name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…" for name in names]
