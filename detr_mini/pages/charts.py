"""Lines and their axes in the coordinates of an SVG; the template draws them, in the colours of light or dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 34
COLOURS = 10
"""The number of colours that the style sheet has for lines; further lines repeat them."""
POINTS = 240
"""The most points of a line."""


@dataclass(frozen=True)
class Line:
    """One line of a chart, in pixels of the SVG."""

    name: str
    colour: int
    points: str
    """ "x,y x,y ...", as SVG writes them."""
    last: str
    """The last value, for the legend; empty where it says nothing."""


@dataclass(frozen=True)
class Chart:
    """A chart with its title, lines, and ticks as (pixel, text)."""

    title: str
    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    label: str


Numbers = Sequence[float | int]
Series = Mapping[str, tuple[Numbers, Numbers]]


def line_chart(
    title: str, series: Series, label: str, *, log: bool = False, top: float | None = None, ends: bool = True
) -> Chart | None:
    """The lines of `series` (name: xs, ys) over the axis `label`; None where there is no point.

    `log`: a logarithmic axis, on which values that are not above zero have no place. `top`: the upper end of a linear
    axis, which begins at zero. `ends`: the legend says each line's last value.
    """
    kept = {name: _known(xs, ys, log) for name, (xs, ys) in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return None
    xs = [x for points in kept.values() for x, _ in points]
    ys = [math.log10(y) if log else y for points in kept.values() for _, y in points]
    x_ends = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 0.5, max(xs) + 0.5)
    y_ends = (min(ys) - 0.05, max(ys) + 0.05) if log else (0.0, top or 1.08 * max(ys) or 1.0)

    def place(x: float, y: float) -> str:
        return f"{_across(x, x_ends):.1f},{_up(math.log10(y) if log else y, y_ends):.1f}"

    lines = [
        Line(name, i % COLOURS, " ".join(place(x, y) for x, y in points), f"{points[-1][1]:.3g}" if ends else "")
        for i, (name, points) in enumerate(kept.items())
    ]
    values = _log_ticks(*y_ends) if log else [(v, f"{v:g}") for v in _ticks(*y_ends)]
    across = tuple((_across(v, x_ends), f"{v:,g}") for v in _ticks(*x_ends))
    return Chart(title, tuple(lines), across, tuple((_up(v, y_ends), text) for v, text in values), label)


def _known(xs: Numbers, ys: Numbers, log: bool) -> list[tuple[float, float]]:
    points = [(float(x), float(y)) for x, y in zip(xs, ys, strict=True) if math.isfinite(y) and (y > 0 or not log)]
    step = max(1, -(-len(points) // POINTS))
    return [*points[:-1:step], *points[-1:]]


def _across(value: float, ends: tuple[float, float]) -> float:
    return LEFT + (value - ends[0]) / (ends[1] - ends[0]) * (WIDTH - LEFT - RIGHT)


def _up(value: float, ends: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (value - ends[0]) / (ends[1] - ends[0]) * (HEIGHT - TOP - BOTTOM)


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, some `about` of them."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """(log10, text) of 1, 2 and 5 times each power of ten in the range."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    steps = (1, 2, 5) if high - low < 2 else (1,)
    ticks = [(p + math.log10(k), f"{k * 10.0**p:g}") for p in powers for k in steps]
    return [tick for tick in ticks if low <= tick[0] <= high]
