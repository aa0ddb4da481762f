"""Losses, AP and learning rates of a training run, as one picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detr_mini.drawing.plotting import empty, legend, new_figure, panel, write

Series = tuple[list[float], list[float]]
RATES = ("lr", "learning_rate", "rate")
QUALITIES = ("AP", "AP50", "AP75")


def curves(history_csv: str | Path, path: str | Path, title: str = "") -> None:
    """Write one PNG from a history.csv: losses (log scale), AP and learning rates over the column `step` (or `epoch`).

    A row holds what was measured at its step. Empty fields are skipped. The last part of a column's name decides its
    panel ("train/loss_box", "val/AP50", "lr/muon"). A panel without data says so.
    """
    series = read_history(history_csv)
    figure = new_figure(15, 4.6)
    loss, quality, rate = figure.subplots(1, 3)
    _panel(loss, "loss", _losses(series), log=True)
    _panel(quality, "AP on val", {n: s for n, s in series.items() if _last(n) in QUALITIES}, points=True, least_top=1.0)
    _panel(rate, "learning rate", {n: s for n, s in series.items() if _is_rate(n)}, log=True, smooth=False)
    write(figure, path, title)


def read_history(history_csv: str | Path) -> dict[str, Series]:
    """The steps and values of each column that holds numbers."""
    with Path(history_csv).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    names = list(rows[0]) if rows else []
    axis = "step" if "step" in names else "epoch"
    series: dict[str, Series] = {}
    for name in names:
        pairs = [(_number(row.get(axis)), _number(row.get(name))) for row in rows]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        if known and name != axis:
            series[name] = ([x for x, _ in known], [y for _, y in known])
    return series


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _is_rate(name: str) -> bool:
    return any(part.split("-")[0] in RATES for part in name.split("/"))


def _losses(series: Mapping[str, Series]) -> dict[str, Series]:
    """At most nine losses above zero: the total, then its parts with the largest last values."""
    found = {
        n: s for n, s in series.items() if "loss" in n.lower() and max(s[1]) > 0 and not _last(n).endswith("_step")
    }
    total = [n for n in found if _last(n) in ("loss", "total_loss", "loss_epoch")]
    parts = sorted((n for n in found if n not in total), key=lambda n: -found[n][1][-1])
    return {n: found[n] for n in [*total, *parts][:9]}


def _panel(
    axes: Any,
    title: str,
    series: Mapping[str, Series],
    *,
    log: bool = False,
    smooth: bool = True,
    points: bool = False,
    least_top: float | None = None,
) -> None:
    panel(axes, title)
    if not series:
        empty(axes, "nothing was recorded")
        return
    for rank, (name, (x, y)) in enumerate(series.items()):
        colour = f"C{rank % 10}"
        main = rank == 0 or not log or not smooth
        noisy = log and smooth and len(y) > 60
        if noisy:
            axes.plot(x, y, color=colour, alpha=0.18, linewidth=0.8)
        axes.plot(
            x, _smooth(y) if noisy else y, label=name, color=colour, linewidth=2.0 if main else 1.2,
            marker="o" if (points and len(x) <= 40) or len(x) == 1 else None, markersize=3.5,
        )  # fmt: skip
        if points and len(y) > 1:
            axes.annotate(f"{y[-1]:.3f}", (x[-1], y[-1]), xytext=(5, 0), textcoords="offset points", fontsize=8,
                          color=colour, va="center", annotation_clip=False)  # fmt: skip
    highest = max(max(y) for _, y in series.values())
    if log and highest > 0:
        _log_scale(axes, [v for _, y in series.values() for v in y if v > highest * 1e-4])
    else:
        axes.set_ylim(0, least_top or 1.08 * highest or 1)
    axes.set_xlabel("step", fontsize=9)
    legend(axes, ncols=2 if len(series) > 5 else 1)


def _log_scale(axes: Any, values: Sequence[float]) -> None:
    """A log scale with plain numbers at the ticks, over the range of `values`."""
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 1.2, max(values) * 1.2)
    few = max(values) / min(values) < 50
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if few and f"{value:.0e}"[0] in "25" else "")


def _smooth(values: Sequence[float], share: float = 0.04) -> list[float]:
    """The running mean over the last `share` of all points, or over fewer at the start."""
    width = max(1, round(share * len(values)))
    sums, smooth = 0.0, []
    for i, value in enumerate(values):
        sums += value - (values[i - width] if i >= width else 0.0)
        smooth.append(sums / min(i + 1, width))
    return smooth
