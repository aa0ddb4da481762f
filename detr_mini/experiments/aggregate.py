"""Runs that differ only in their seed, as one recipe: mean, spread and range of their metrics."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from detr_mini.evaluation.report.table import number

MEASURES = ("AP", "AP50", "AP75", "train_seconds")


def recipe(name: str, runs: Sequence[Mapping[str, Any]], measures: Sequence[str] = MEASURES) -> dict[str, Any]:
    """One row: mean, spread (standard deviation), minimum and maximum of each measure over the runs' metrics.json.

    None if no run has the measure; the spread is None for a single run.
    """
    row: dict[str, Any] = {"recipe": name}
    for key in measures:
        values = [float(metrics[key]) for metrics in runs if metrics.get(key) is not None]
        row[key] = statistics.fmean(values) if values else None
        row[f"{key}_spread"] = statistics.stdev(values) if len(values) > 1 else None
        row[f"{key}_least"], row[f"{key}_most"] = (min(values), max(values)) if values else (None, None)
    return row


def recipe_table(
    rows: Sequence[Mapping[str, Any]], counts: Sequence[str], measures: Sequence[str], **about: Any
) -> Table:
    """Rows of `recipe`. `counts` has the number of runs of each; `about` goes to the table."""
    heads = ("minutes" if key == "train_seconds" else key for key in measures)
    table = Table("recipe", "runs", *heads, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, **about)
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for row, count in zip(rows, counts, strict=True):
        table.add_row(escape(str(row["recipe"])), count, *(_cell(row, key) for key in measures))
    return table


def _cell(row: Mapping[str, Any], key: str) -> str:
    """Mean ± standard deviation, and the range on a second line; for one run its value."""
    ends = ("", "_spread", "_least", "_most")
    mean, spread, least, most = (row[f"{key}{end}"] for end in ends)
    if key == "train_seconds" and mean is not None:
        mean, least, most = (value / 60 for value in (mean, least, most))
        spread = None if spread is None else spread / 60
        return f"{mean:.1f}" if spread is None else f"{mean:.1f} ± {spread:.1f}\n{least:.1f}-{most:.1f}"
    return number(mean) if spread is None else f"{number(mean)} ± {spread:.3f}\n{least:.3f}-{most:.3f}"
