"""What all charts share: the figure, the style of a panel and its legend, and the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def new_figure(width: float | int, height: float | int) -> Any:
    """A matplotlib Figure (sizes in inches) that needs no display. Only this loads matplotlib's figures."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")


def heading(axes: Any, title: str) -> None:
    """A panel's title."""
    axes.set_title(title, fontsize=11, loc="left", fontweight="bold")


def panel(axes: Any, title: str, *, grid: bool = True) -> None:
    """Style a panel: a title, no frame at the top and right, small ticks, faint lines if `grid`."""
    heading(axes, title)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(alpha=0.25)
    axes.tick_params(labelsize=9)


def legend(axes: Any, **settings: Any) -> Any:
    """Add a small legend on a translucent background."""
    return axes.legend(**{"fontsize": 8, "framealpha": 0.8, "edgecolor": "none", **settings})


def empty(axes: Any, reason: str) -> None:
    """Show `reason` in a panel that has no data."""
    axes.text(0.5, 0.5, reason, ha="center", va="center", color="grey", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def write(figure: Any, path: str | Path, title: str = "", note: str = "") -> None:
    """Write a PNG with a title above it and a note below it, unless they are empty."""
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    if note:
        figure.supxlabel(note, fontsize=8, color="#555555")
    figure.savefig(str(path), format="png")
