"""Charts that look alike: an empty figure, a panel's heading, and the file they end in."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def new_figure(width: float | int, height: float | int) -> Any:
    """A matplotlib Figure of so many inches, drawn without a display; matplotlib is loaded only here."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")


def heading(axes: Any, title: str) -> None:
    """A panel's title."""
    axes.set_title(title, fontsize=11, loc="left", fontweight="bold")


def panel(axes: Any, title: str, *, grid: bool = True) -> None:
    """A plain panel with a title: no frame above and to the right, small ticks, faint lines if `grid`."""
    heading(axes, title)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(alpha=0.25)
    axes.tick_params(labelsize=9)


def write(figure: Any, path: str | Path, title: str = "", note: str = "") -> None:
    """Write a PNG, with a title above it and a note below where they are given."""
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    if note:
        figure.supxlabel(note, fontsize=8, color="#555555")
    figure.savefig(str(path), format="png")
