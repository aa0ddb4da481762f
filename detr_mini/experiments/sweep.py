"""The verb `train -m`: many trainings, then one table and one picture of them all."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.text import Text

from detr_mini.config.compose import compose, swept
from detr_mini.config.run_folder import whole
from detr_mini.errors import ConfigError
from detr_mini.experiments.aggregate import recipe, recipe_table
from detr_mini.experiments.launch import Attempt
from detr_mini.experiments.record import Record, Run
from detr_mini.models.build import build_part


def train_many(words: Sequence[str], attempt: Attempt) -> int:
    """Train with every combination of settings in `words`; returns the exit status.

    Words that begin with `sweep` choose the launcher and its folder (configs/sweep.yaml). Exit status 0: all are done;
    2: some failed, all because of the user's settings; 1: some failed for another reason. A failure does not stop the
    others. KeyboardInterrupt after Ctrl-C. Table, picture and sweep.json are written in every case.
    """
    own = [word for word in words if re.match(r"sweep[.=]", word)]
    rest = [word for word in words if word not in own]
    for word in rest:
        if word.startswith(("run_folder=", "resume=")):
            raise ConfigError(f"{word} is for one run; set sweep.folder=FOLDER (an existing sweep there continues)")
    launcher = build_part("sweep", compose("sweep", own).sweep)
    with Record.at(launcher.folder, _name(launcher.plan(rest)), launcher.measure) as record:
        record.swept |= swept(rest)
        try:
            launcher.launch(rest, record, attempt)
        finally:
            record.stop()
            if record.runs:
                report(record, launcher)
    return _status(record)


def _name(plan: Sequence[Sequence[str]]) -> str:
    """The runs' name. ConfigError if no run's settings can be read."""
    complaint = ConfigError("the sweep has no runs")
    for words in plan:
        try:
            return str(compose("train", words).name)
        except ConfigError as error:
            complaint = error
    raise complaint


def report(record: Record, launcher: Any) -> None:
    """Print the table of the choices, and write sweep.txt, sweep.json and sweep.png."""
    reached = [run.metrics.get(record.goes_by()) for run in record.runs if run.state == "done"]
    if reached and not any(isinstance(value, int | float) for value in reached):
        print(f"no run has the number '{record.goes_by()}' in its metrics.json; set sweep.measure to another key")
        record.measure = None
    choices, by = record.choices(), record.goes_by()
    measures = [*dict.fromkeys((by, "AP", "AP50", "train_seconds"))]
    done = {name: [run.metrics for run in runs if run.state == "done"] for name, runs in choices.items()}
    rows = [recipe(name, metrics, measures) for name, metrics in done.items()]
    rows.sort(key=lambda row: -math.inf if row[by] is None else record.merit(row[by]), reverse=True)
    counts = [_count(choices[row["recipe"]]) for row in rows]
    twice = by == "val/AP" and all(row["AP"] == row[by] for row in rows)  # measured on val
    columns = [key for key in measures if not (twice and key == "AP")]
    parts: list[Any] = [recipe_table(rows, counts, columns, title=escape(f"{record.about()}; the best {by} first"))]
    parts += [Text(f"{record.title(run)}: {run.state}. {run.sentence}") for run in record.runs if run.state != "done"]
    shown = Group(*parts)
    record.write(choices=rows)
    Console().print(shown)
    with whole(record.folder / "sweep.txt") as temporary, temporary.open("w", encoding="utf-8") as stream:
        Console(file=stream, width=120).print(shown)
    if any(row[by] is not None for row in rows):
        launcher.draw(record, rows, record.folder / "sweep.png")
    print(f"written to {record.folder}", flush=True)


def _count(runs: Sequence[Run]) -> str:
    done = sum(run.state == "done" for run in runs)
    return str(done) if done == len(runs) else f"{done} of {len(runs)}"


def _status(record: Record) -> int:
    asked = {run.folder: run for run in record.asked}
    left = [run for run in asked.values() if run.state != "done"]
    if not left:
        return 0
    names = "; ".join(record.title(run) for run in left)
    print(f"detr-mini: {len(left)} of {len(asked)} runs failed: {names}", file=sys.stderr)
    return 1 if any(run.state == "broken" for run in left) else 2
