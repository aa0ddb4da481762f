"""The runs of a sweep on the terminal, while they train."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from detr_mini.evaluation.report.table import number
from detr_mini.experiments.record import Record, Run


@contextmanager
def board(record: Record, total: int, console: Console) -> Iterator[None]:
    """Inside, show how many of `total` runs have ended, and the step and AP of each running one."""

    def render() -> Table:
        shown = Table.grid(padding=(0, 2))
        running = [run for run in record.runs if run.state == "running"]
        shown.add_row(f"{_ended(record)} of {total} runs ended, {len(running)} running", "")
        for run in running:
            shown.add_row(escape(record.title(run)), escape(_stands(record, run)))
        return shown

    with Live(get_renderable=render, console=console, refresh_per_second=1, transient=True):
        yield


def print_result(record: Record, run: Run, console: Console) -> None:
    """Print one line about a run that has ended."""
    console.print(f"[{_ended(record)}] {record.title(run)}: {result(run)}", markup=False, highlight=False)


def result(run: Run) -> str:
    """The metrics of a finished run, or the state and error of another one."""
    if run.state != "done":
        return f"{run.state}: {run.sentence}"
    seconds = run.metrics.get("train_seconds")
    reached = f"AP {number(run.metrics.get('AP'))}, AP50 {number(run.metrics.get('AP50'))}"
    return reached if seconds is None else f"{reached}, {seconds / 60:.1f} minutes"


def _ended(record: Record) -> int:
    return sum(run.state in ("done", "failed", "broken") for run in record.runs)


def _stands(record: Record, run: Run) -> str:
    """Step and latest AP, from its history.csv."""
    try:
        with (record.path(run) / "history.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except OSError:
        return "starting"
    measured = [row["val/AP"] for row in rows if row.get("val/AP")]
    step = rows[-1]["step"] if rows else "0"
    return f"step {step}" + (f", AP {float(measured[-1]):.3f}" if measured else "")
