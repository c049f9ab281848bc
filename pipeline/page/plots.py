"""The report's plots as inline SVG whose colours are the page's CSS variables; no plot needs a script or a network.

It reads no data of a run and lays out no page.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Stand-ins that matplotlib can draw with, each replaced by a variable of the page's style sheet.
COLOURS = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "teacher": "#040404",
    "base": "#050505",
    "student": "#060606",
    "bad": "#070707",
    "panel": "#080808",
}
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "seqdistill",
    "text.parse_math": False,
    "font.size": 10,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": COLOURS["ink"],
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Score:
    """A line of the score plot: a label, accuracy and interval (0 to 1), and whose colour it takes."""

    label: str
    value: float
    low: float
    high: float
    colour: str


def scores(rows: Sequence[Score]) -> str:
    """Accuracies with their intervals, one line each, from top to bottom."""

    def draw(axes: Any) -> None:
        for place, row in enumerate(rows):
            colour = COLOURS[row.colour]
            whisker = {"color": colour, "linewidth": 6, "alpha": 0.28, "solid_capstyle": "round"}
            axes.plot([row.low, row.high], [place, place], **whisker)
            axes.plot([row.value], [place], "o", color=colour, markersize=8)
            axes.annotate(
                f"{row.value:.3f}", (row.value, place), (0, 9), textcoords="offset points", ha="center", fontsize=9
            )
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
        axes.grid(axis="y", visible=False)
        axes.set_ylim(len(rows) - 0.4, -0.7)
        axes.set_xlim(min(-0.02, *(row.low for row in rows)), max(row.high for row in rows) * 1.05 + 0.02)
        axes.set_xlabel("pass@1 on held-out questions, with 95 % interval")

    return _svg("scores", draw, 7.6, 0.9 + 0.5 * len(rows))


def lengths(groups: Mapping[str, Sequence[int]], colours: Mapping[str, str]) -> str:
    """A stacked histogram of trace lengths in tokens, one colour a group."""
    import numpy as np

    longest = max((max(values) for values in groups.values() if len(values)), default=1)
    edges = np.linspace(0, longest + 1, 41)

    def draw(axes: Any) -> None:
        floor = np.zeros(len(edges) - 1)
        for name, values in groups.items():
            count, _ = np.histogram(values, edges)
            axes.bar(
                edges[:-1],
                count,
                np.diff(edges) * 0.92,
                bottom=floor,
                align="edge",
                color=COLOURS[colours[name]],
                label=name,
            )
            floor += count
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("completion tokens")
        axes.set_ylabel("traces")
        _legend(axes)

    return _svg("lengths", draw, 5.6, 3.1)


def curve(train: Sequence[tuple[float, float]], validation: Sequence[tuple[float, float]]) -> str:
    """Loss over steps: training as a line, validation as points on a line. Either may be empty."""

    def draw(axes: Any) -> None:
        if train:
            axes.plot(*zip(*train, strict=True), color=COLOURS["base"], linewidth=1.4, label="training")
        if validation:
            style = {"color": COLOURS["student"], "linewidth": 1.8, "markersize": 5, "label": "validation"}
            axes.plot(*zip(*validation, strict=True), "o-", **style)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("optimiser steps")
        axes.set_ylabel("loss per token (nats)")
        _legend(axes)

    return _svg("curve", draw, 5.6, 3.1)


def _legend(axes: Any) -> None:
    """Above the plot, where it hides nothing."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.2, handlelength=1.2)


def _svg(name: str, draw: Any, width: float, height: float) -> str:
    """An SVG element of a figure of so many inches, its ids made unique to the page."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for variable, stand_in in COLOURS.items():
        text = text.replace(stand_in, f"var(--{variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)
