"""The metrics as tables on the terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from detr_mini.evaluation.metrics.coco import Scores

CAPTION_ROWS = {
    "grounding/accuracy": "exact: all",
    "grounding/top1": "best guess right",
    "grounding/recall_any@5": "right among five",
    "grounding/absent_rejected": "absent and left unfound",
    "grounding/agnostic_AP": "AP of what is asked for",
}
MANY, ENDS = 100, 10
"""Of more than MANY categories, only the ENDS best and the ENDS worst are shown."""


def table(scores: Scores, title: str = "", console: Console | None = None) -> None:
    """Print COCO's twelve numbers, a row per category, and what the means are taken over."""
    (console or Console()).print(render(scores, title))


def render(scores: Scores, title: str = "") -> Group:
    """What `table` prints."""
    metrics = scores.metrics
    limit = metrics["detection_limit"]
    heads = ("", "all", "small", "medium", "large")
    numbers = Table(*heads, title=escape(title) or None, title_justify="left", title_style="bold")
    for column in numbers.columns[1:]:
        column.justify = "right"
    for kind, name in (("AP", "AP"), ("AR", f"AR, {limit} detections")):
        whole = "AP" if kind == "AP" else f"AR{limit}"
        keys = (whole, *(f"{kind}{size}" for size in "sml"))
        numbers.add_row(name, *(with_interval(metrics, key) for key in keys))
        if kind == "AP":
            for at in ("AP50", "AP75"):
                numbers.add_row(f"{kind} at IoU 0.{at[2:]}", with_interval(metrics, at))
    for few, name in ((1, "AR, 1 detection"), (10, "AR, 10 detections")):
        numbers.add_row(name, number(metrics[f"AR{few}"]))
    classes = Table("category", "images", "objects", "detections", "AP", "AP50")
    for column in classes.columns[1:]:
        column.justify = "right"
    rows, left_out = _shown(scores)
    for row in rows:
        classes.add_row(
            escape(row.name),
            str(row.images),
            str(row.truths),
            str(row.detections),
            with_interval(metrics, f"AP/{row.name}"),
            number(row.AP50),
        )
    return Group(classes, numbers, *_captions(metrics), Text(summary(scores) + left_out))


def _shown(scores: Scores) -> tuple[Sequence[Any], str]:
    """The `ClassRow`s of the table, and a sentence about those that it leaves out."""
    if len(scores.classes) <= MANY:
        return scores.classes, ""
    scored = sorted((row for row in scores.classes if row.AP is not None), key=lambda row: -(row.AP or 0.0))
    if len(scored) <= 2 * ENDS:
        return scored, " Only categories with objects are shown."
    ends = [*scored[:ENDS], *scored[-ENDS:]]
    return ends, f" The {ENDS} best and {ENDS} worst of {len(scored)} categories with objects are shown."


def _captions(metrics: Mapping[str, Any]) -> Iterator[Table]:
    """The table of the caption metrics, where there are any."""
    if "grounding/accuracy" not in metrics:
        return
    shown = Table("captions", "", title_justify="left")
    shown.columns[1].justify = "right"
    for key, name in CAPTION_ROWS.items():
        shown.add_row(name, number(metrics[key]))
    for key, value in metrics.items():
        if key.startswith("grounding/accuracy/"):
            shown.add_row(f"exact: {key.rpartition('/')[2]}", number(value))
    yield shown


def number(value: float | None) -> str:
    """Three decimals, or "n/a" where the number is undefined."""
    return "n/a" if value is None else f"{value:.3f}"


def with_interval(metrics: Mapping[str, Any], key: str) -> str:
    """A number of metrics.json, with its 95 % interval where there is one: "0.612 (0.57-0.65)"."""
    head, slash, name = key.partition("/")
    low, high = (metrics.get(f"{head}_{end}{slash}{name}") for end in ("low", "high"))
    text = number(metrics.get(key))
    return text if low is None or high is None else f"{text} ({low:.2f}-{high:.2f})"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown. Every line ends with a line feed."""
    lines = (f"| {' | '.join(cells)} |\n" for cells in rows)
    return f"| {' | '.join(heads)} |\n{'| --- ' * len(heads)}|\n{''.join(lines)}"


def summary(scores: Scores) -> str:
    """What the means are taken over, and which detections count in no AP."""
    metrics = scores.metrics
    total = len(scores.classes)
    text = (
        f"{metrics['images']} images; means over {metrics['categories_scored']} of {total} categories; "
        f"at most {metrics['detection_limit']} detections per image and category."
    )
    if "AP_low" in metrics:
        text += " In brackets: 95 % intervals, by a bootstrap over the images."
    silent = [row for row in scores.classes if row.AP is None and row.detections]
    if silent:
        shown = ", ".join(row.name for row in silent[:5]) + (", ..." if len(silent) > 5 else "")
        count = sum(row.detections for row in silent)
        text += f" {count} detections of categories without an object ({shown}) count in no AP."
    return text


def stored(folder: str | Path) -> Group:
    """The table of a run folder's metrics.json."""
    file = Path(folder) / "metrics.json"
    metrics = json.loads(file.read_text(encoding="utf-8"))
    numbers = Table("measured", f"{folder} on {metrics.get('split')}", title_justify="left")
    numbers.columns[1].justify = "right"
    for name in metrics:
        if name.startswith(("AP", "AR")) and not re.match(r"AP\w*_(low|high)", name):
            numbers.add_row(name, with_interval(metrics, name))
    seconds = metrics.get("train_seconds")
    return Group(numbers, Text(f"{metrics['images']} images; trained for {seconds} s; from {file}"))


if __name__ == "__main__":
    Console().print(stored(sys.argv[1]))
