"""Charts of evaluations: precision and recall, confusion, errors and their cost, comparisons of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from detr_mini.drawing.plotting import heading, legend, new_figure, panel, write

Curves = Mapping[str, Float[np.ndarray, " r"]]
CURVES, SQUARES = 12, 24
"""The most categories in a chart of curves, and in a confusion matrix."""
WARM, COOL = "#d1495b", "#30638e"


def precision_recall(by_iou: Curves, by_category: Curves, path: str | Path, title: str) -> None:
    """Write one PNG: the mean curve at several IoUs, and the curve of each category (at most CURVES) at IoU 0.5.

    A curve holds the precision at recalls that are evenly spread over [0, 1].
    """
    figure = new_figure(12, 4.8)
    left, right = figure.subplots(1, 2)
    for axes, curves, name in (
        (left, by_iou, "mean over the categories"),
        (right, dict(list(by_category.items())[:CURVES]), "categories at IoU 0.5"),
    ):
        for number, (label, curve) in enumerate(curves.items()):
            colour, line = f"C{number % 10}", "-" if number < 10 else "--"
            recalls = np.linspace(0, 1, len(curve))
            axes.plot(recalls, curve, line, color=colour, label=f"{label} ({np.mean(curve):.3f})")
        panel(axes, name)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        if curves:
            legend(axes, loc="lower left")
    write(figure, path, title)


def confusion_matrix(counts: Int[np.ndarray, "n n"], names: Sequence[str], path: str | Path, title: str) -> None:
    """Write one PNG: rows are true categories, columns predicted ones, the last of both is the background.

    Numbers are counts, colours are shares of the row. Of many categories, those with the most errors are drawn.
    """
    right = np.diagonal(counts)[:-1]
    wrong = counts[:-1].sum(1) + counts[:, :-1].sum(0) - 2 * right
    present = np.flatnonzero(counts[:-1].sum(1) + counts[:, :-1].sum(0))
    worst = present[np.argsort(-wrong[present], kind="stable")][:SQUARES]
    kept = [*sorted(worst.tolist()), len(names)]
    part = counts[np.ix_(kept, kept)]
    shares = part / np.maximum(counts[kept].sum(1, keepdims=True), 1)
    side = 2.6 + 0.52 * len(kept)
    figure = new_figure(side + 1.2, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [names[k] if k < len(names) else "background" for k in kept]
    axes.set(xticks=range(len(kept)), yticks=range(len(kept)), xlabel="predicted", ylabel="true")
    axes.set_xticklabels(labels, rotation=45, ha="right", fontsize=9)
    axes.set_yticklabels(labels, fontsize=9)
    small = 8 if len(kept) <= 12 else 7
    for row, column in np.argwhere(part > 0).tolist():
        ink = "white" if shares[row, column] > 0.55 else "#222222"
        axes.text(column, row, int(part[row, column]), ha="center", va="center", fontsize=small, color=ink)
    for line in (axes.axhline, axes.axvline):
        line(len(kept) - 1.5, color="#888888", linewidth=0.8)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the row")
    left_out = len(present) - len(worst)
    note = f"\n{left_out} categories with fewer errors are not drawn" if left_out else ""
    heading(axes, title + note)
    write(figure, path)


def error_costs(counts: Mapping[str, int], costs: Mapping[str, float | None], path: str | Path, title: str) -> None:
    """Write one PNG: the number of errors of each type, and the AP50 that each type costs."""
    figure = new_figure(11, 3.6)
    left, right = figure.subplots(1, 2, sharey=True)
    kinds = list(counts)
    numbers, lost = [float(counts[kind]) for kind in kinds], [costs[kind] or 0.0 for kind in kinds]
    for axes, values, name, colour, form in (
        (left, numbers, "number of errors", COOL, "{:,.0f}"),
        (right, lost, "cost: AP50 after correction minus AP50", WARM, "{:.3f}"),
    ):
        bars = axes.barh(kinds, values, color=colour, height=0.62)
        panel(axes, name)
        axes.bar_label(bars, [form.format(v) for v in values], padding=4, fontsize=9)
        axes.set_xlim(0, 1.18 * max(*values, 1e-3))
        axes.grid(visible=False, axis="y")
    left.invert_yaxis()
    write(figure, path, title)


def spreads(measures: Mapping[str, Mapping[str, Sequence[float]]], path: str | Path, title: str) -> None:
    """Write one PNG: a panel per measure, a row per group of runs, a dot per run.

    A line marks the mean of a row, a bar one standard deviation each way, a thin line the 95 % interval of the mean
    (Student's t).
    """
    figure, names, panels = _row_panels(measures)
    for axes, (measure, groups) in zip(panels, measures.items(), strict=True):
        for name, values in groups.items():
            _spread(axes, names.index(name), np.asarray(values, dtype=float))
        panel(axes, measure)
        if any(len(values) for values in groups.values()):
            low, high = min(map(min, groups.values())), max(map(max, groups.values()))
            room = max(0.3 * (high - low), 0.01)  # with two or three runs the interval may be far wider
            axes.set_xlim(low - room, high + room)
    note = "dot: a run; line: their mean; bar: one standard deviation; thin line: 95 % interval of the mean"
    write(figure, path, title, note)


def _row_panels(measures: Mapping[str, Mapping[str, Any]]) -> tuple[Any, list[str], Any]:
    """(figure, groups, axes): a panel per measure with a row per group of runs."""
    names = list(dict.fromkeys(name for groups in measures.values() for name in groups))
    figure = new_figure(5 + 4 * len(measures), 1.9 + 0.42 * len(names))
    panels = np.atleast_1d(figure.subplots(1, len(measures), sharey=True))
    for axes in panels:
        axes.set(yticks=range(len(names)), ylim=(len(names) - 0.4, -0.7))
        axes.set_yticklabels(names, fontsize=9)
    return figure, names, panels


def _spread(axes: Any, row: int, values: Float[np.ndarray, " n"]) -> None:
    """One row of `spreads`."""
    from scipy.special import stdtrit

    mean, count = float(values.mean()), len(values)
    if count > 1:
        spread = float(values.std(ddof=1))
        half = float(stdtrit(count - 1, 0.975)) * spread / count**0.5
        axes.barh(row, 2 * spread, left=mean - spread, height=0.5, color=COOL, alpha=0.18)
        axes.plot([mean - half, mean + half], [row, row], color=COOL, linewidth=1)
    axes.plot([mean, mean], [row - 0.3, row + 0.3], color=COOL, linewidth=2)
    axes.plot(values, [row] * count, "o", color=WARM, markersize=5, alpha=0.85)
    _number(axes, mean, (mean, row - 0.3))


def _number(axes: Any, value: float, place: tuple[float | int, float | int], above: int = 2) -> None:
    """`value` in small figures, `above` points over the place."""
    text = {"xytext": (0, above), "textcoords": "offset points", "ha": "center", "fontsize": 8}
    axes.annotate(f"{value:.3f}", place, **text)


def means_with_intervals(
    measures: Mapping[str, Mapping[str, tuple[Sequence[float], float, float]]], path: str | Path, title: str, note: str
) -> None:
    """Write one PNG: a panel per measure, a row per group of runs (values, low, high), a dot per run.

    A line runs from the low to the high end of the group's interval, a number gives its mean, a dashed line marks the
    mean over the rows. Measures are between 0 and 1.
    """
    figure, names, panels = _row_panels(measures)
    for axes, (measure, groups) in zip(panels, measures.items(), strict=True):
        means = {name: float(np.mean(values)) for name, (values, _, _) in groups.items()}
        for name, (values, low, high) in groups.items():
            row = names.index(name)
            axes.plot([low, high], [row, row], color=COOL, linewidth=2, alpha=0.6)
            axes.plot(values, [row] * len(values), "o", color=WARM, markersize=6, alpha=0.85)
            _number(axes, means[name], (means[name], row - 0.15))
        whole = float(np.mean(list(means.values())))
        axes.axvline(whole, color="#666666", linewidth=0.8, linestyle="--")
        panel(axes, f"{measure}, mean {whole:.3f}")
        axes.set(xlim=(-0.02, 1.02))
    write(figure, path, title, note)


def search_results(
    settings: Mapping[str, Sequence[str]],
    values: Sequence[float],
    best: int,
    path: str | Path,
    measure: str,
    title: str,
) -> None:
    """Write one PNG: a panel per setting, a dot per run, its result over the setting's value.

    Later runs are darker, the `best` one has a ring. Numeric values have a continuous axis, logarithmic where they span
    a factor of ten. Numbers that recur have a tick each.
    """
    columns = min(len(settings), 3)
    rows = -(-len(settings) // columns)
    figure = new_figure(1.5 + 3.6 * columns, 0.8 + 3.2 * rows)
    panels = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel()
    for axes in panels[len(settings) :]:
        axes.set_axis_off()
    for axes, (name, texts) in zip(panels, settings.items(), strict=False):
        try:
            places = [float(text) for text in texts]
            if min(places) > 0 and max(places) >= 10 * min(places):
                axes.set_xscale("log")
            elif 2 * len(set(places)) <= len(places):
                axes.set_xticks(sorted(set(places)))
                axes.margins(x=0.2)
        except ValueError:
            kinds = sorted(set(texts))
            places = [float(kinds.index(text)) for text in texts]
            axes.set_xticks(range(len(kinds)), kinds)
            axes.set_xlim(-0.5, len(kinds) - 0.5)
        order = np.linspace(0.3, 1.0, len(values))
        axes.scatter(places, values, c=order, cmap="Blues", vmin=0, vmax=1, s=36, edgecolors="#555555", linewidths=0.4)
        axes.plot(places[best], values[best], "o", markersize=12, markerfacecolor="none", color=WARM)
        axes.set(xlabel=name, ylabel=measure)
        panel(axes, "")
    write(figure, path, title, "dot: a run, later ones darker; ring: the best run")


def learning_curve(
    images: Sequence[int],
    values: Mapping[str, Sequence[float | None]],
    bands: Mapping[str, Sequence[tuple[float, float] | None]],
    path: str | Path,
    title: str,
) -> None:
    """Write one PNG: each of `values` over the number of training images (log scale), with its band if it has one."""
    figure = new_figure(7.6, 4.8)
    axes = figure.subplots()
    for number, (name, series) in enumerate(values.items()):
        known = [(n, v, b) for n, v, b in zip(images, series, bands[name], strict=True) if v is not None]
        x, y = [n for n, _, _ in known], [v for _, v, _ in known]
        axes.plot(x, y, "o-", color=f"C{number}", label=name)
        banded = [(n, *b) for n, _, b in known if b is not None]
        if banded:
            axes.fill_between(*zip(*banded, strict=True), color=f"C{number}", alpha=0.15, linewidth=0)
        for n, v in zip(x, y, strict=True):
            _number(axes, v, (n, v), above=6)
    panel(axes, title)
    axes.set(xscale="log", ylim=(0, 1), xlabel="training images", ylabel="on the same images")
    axes.set_xticks(list(images), [str(n) for n in images])
    axes.set_xticks([], minor=True)
    legend(axes, fontsize=9)
    write(figure, path)


def differences(rows: Sequence[tuple[str, float, float, bool]], path: str | Path, title: str) -> None:
    """Write one PNG of rows (name, difference, effect of chance, real).

    Of many rows, the first six and the 30 largest of the others are drawn.
    """
    rows = [*rows[:6], *sorted(rows[6:], key=lambda row: -abs(row[1]))[:30]]
    figure = new_figure(8.5, 1.6 + 0.3 * len(rows))
    axes = figure.subplots()
    for place, (_, difference, noise, real) in enumerate(rows):
        axes.barh(place, 2 * noise, left=-noise, height=0.6, color="#bbbbbb", alpha=0.6)
        axes.plot(difference, place, "o", color=WARM if real else "#555555", markersize=7 if real else 5)
    panel(axes, title)
    axes.axvline(0, color="#666666", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{name} *" if real else name for name, _, _, real in rows], fontsize=9)
    axes.set(
        ylim=(len(rows) - 0.4, -0.6),
        xlabel="grey: the effect of chance alone (95 %); red, *: real, adjusted for the number of comparisons",
    )
    write(figure, path)
