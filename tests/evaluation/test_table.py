"""The tables on the terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from detr_mini.evaluation.metrics.coco import score
from detr_mini.evaluation.report.table import stored, table
from detr_mini.structures import Categories


def shown(categories: Categories, results: list[dict], scored: int = 1) -> str:
    """The table for one image with an object of each of the first `scored` categories."""
    box = {"image_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}
    truth = {"images": [{"id": 1}], "annotations": [{"id": k, "category_id": k, **box} for k in range(1, scored + 1)]}
    console = Console(file=io.StringIO(), width=100)
    table(score(truth, results, categories), "val", console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_an_undefined_metric_is_shown_as_not_available() -> None:
    text = shown(Categories((1, 2), ("bolt", "nut")), [])
    assert "n/a" in text
    assert "-1" not in text
    assert "means over 1 of 2 categories" in text


def numbered(count: int) -> Categories:
    return Categories(tuple(range(1, count + 1)), tuple(f"kind {i}." for i in range(1, count + 1)))


def test_thousands_of_categories_fit_on_a_screen() -> None:
    assert len(shown(numbered(1000), []).splitlines()) < 60


@pytest.mark.parametrize(
    ("scored", "rows", "sentence"),
    [(1, 1, "Only categories with objects are shown."), (12, 12, "Only categories with objects are shown."),
     (20, 20, "Only categories with objects are shown."), (21, 20, "The 10 best and 10 worst of 21 categories"),
     (300, 20, "The 10 best and 10 worst of 300 categories")],
)  # fmt: skip
def test_no_category_is_shown_twice_and_a_sentence_names_those_shown(scored: int, rows: int, sentence: str) -> None:
    text = shown(numbered(300), [], scored)
    names = re.findall(r"kind \d+\.", text)
    assert len(names) == len(set(names)) == rows
    assert sentence in " ".join(text.split())


def test_a_table_of_a_hundred_categories_is_whole() -> None:
    text = shown(numbered(100), [], 50)
    assert len(re.findall(r"kind \d+\.", text)) == 100
    assert "are shown" not in text


def test_caption_metrics_are_shown_where_there_are_any() -> None:
    one = Categories((1,), ("bolt",))
    assert "captions" not in shown(one, [])
    scores = score({"images": [{"id": 1}], "annotations": []}, [], one)
    scores.metrics.update(
        {"grounding/accuracy": 0.875, "grounding/top1": 0.9, "grounding/recall_any@5": 1.0,
         "grounding/absent_rejected": None, "grounding/agnostic_AP": 0.8, "grounding/accuracy/chain": 0.625}
    )  # fmt: skip
    console = Console(file=io.StringIO(), width=100)
    table(scores, "val", console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for shown_number in ("0.875", "exact: chain", "0.625", "absent and left unfound"):
        assert shown_number in text


def test_metrics_are_shown_with_their_intervals(tmp_path: Path) -> None:
    one = Categories((1,), ("bolt",))
    scores = score({"images": [{"id": 1}], "annotations": []}, [], one)
    scores.metrics.update({"AP": 0.6123, "AP_low": 0.571, "AP_high": 0.648, "AP/bolt": 0.5, "AP_low/bolt": 0.44,
                           "AP_high/bolt": 0.56})  # fmt: skip
    console = Console(file=io.StringIO(), width=100)
    table(scores, "val", console)
    (tmp_path / "metrics.json").write_text(json.dumps(scores.metrics))
    console.print(stored(tmp_path))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("0.612 (0.57-0.65)") == 2
    assert "0.500 (0.44-0.56)" in text
    assert "AP_low" not in text


@pytest.mark.parametrize("name", ["car [rear]", "a[/b]", "[bold]"])
def test_a_name_with_brackets_is_printed_as_it_is(name: str) -> None:
    truth = {"images": [{"id": 1, "height": 9, "width": 9}], "annotations": [], "categories": [{"id": 1, "name": name}]}
    console = Console(file=io.StringIO(), width=100)
    table(score(truth, [], Categories((1,), (name,))), f"run{name} on val", console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count(name) == 2
