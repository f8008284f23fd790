"""Matplotlib figures as SVG that lives in the page: small, searchable, and in the colours of its theme."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Colours that a figure is drawn in and that the page replaces by its own: style.css defines each twice.
THEME = {
    "#010101": "--ink", "#010102": "--muted", "#010103": "--line", "#010104": "--paper",
    "#010105": "--blue", "#010106": "--orange", "#010107": "--green", "#010108": "--purple",
    "#010109": "--red", "#01010a": "--sky",
}  # fmt: skip
INK, MUTED, LINE, PAPER, BLUE, ORANGE, GREEN, PURPLE, RED, SKY = THEME
LONGEST_LABEL = 22  # characters
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)

STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.fonttype": "none",  # text stays text: it can be searched, and a screen reader finds it
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
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in the report's style."""
    with mpl.rc_context(STYLE):
        yield


def new_figure(width: float = 5.0, height: float = 3.2) -> Figure:
    """Return an empty figure, without pyplot: nothing global, and no display.

    Args:
        width: Width in inches; five make a figure that a phone shows in its real size.
        height: Height in inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def inline_svg(figure: Figure, label: str) -> Markup:
    """Return a figure as an ``<svg>`` element for the page.

    Args:
        figure: Drawn in `THEME`'s colours within `drawing`.
        label: What it shows, in words; read out by screen readers.

    Returns:
        The element. Its width follows the page, and its identifiers are its own.
    """
    salt = hashlib.sha1(label.encode()).hexdigest()[:8]
    stream = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{salt}", text)  # no two figures share an identifier
    text = re.sub("#01010[1-9a]", lambda found: f"var({THEME[found.group()]})", text)
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    return Markup(f'{head} role="img" aria-label="{escape(label)}">{rest}')


def looks(*colours: str) -> Iterator[tuple[str, str]]:
    """Give colours with solid lines, then again with dashed ones, and so on without end."""
    return ((colour, line) for line in itertools.cycle(("-", "--", ":", "-.")) for colour in colours)


def brief(names: Sequence[str]) -> list[str]:
    """Cut names to what an axis has room for."""
    return [
        name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}\N{HORIZONTAL ELLIPSIS}"
        for name in names
    ]
