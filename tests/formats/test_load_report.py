from __future__ import annotations

import io
import json

from rich.console import Console

from detr_mini.formats.load_report import LoadReport, SplitReport


def report() -> LoadReport:
    train = SplitReport("train", images=4, boxes=9, per_category={"bolt": 9, "nut": 0})
    val = SplitReport("val", images=2)
    for number in range(7):
        train.drop("box without size", f"annotation {number} [0, 0]", "1.png")
    train.clip("annotation 99")
    val.finish()
    return LoadReport({"train": train, "val": val}, ["the cache keeps 4 of 4"])


def test_counts_are_whole_and_examples_few() -> None:
    train = report().splits["train"]
    assert train.dropped == {"box without size": 7}
    assert len(train.examples["box without size"]) == 5
    assert train.clipped == 1


def test_the_table_shows_every_count_and_notice() -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(report().table())
    text = console.export_text()
    for piece in ("train", "val", "box without size", "7", "annotation 0 [0, 0]", "bolt", "nut", "clipped",
                  "there is no box at all", "the cache keeps 4 of 4"):  # fmt: skip
        assert piece in text


def test_names_and_notices_with_brackets_are_shown_as_they_are() -> None:
    names = ["speed [km/h]", "[/b]", "\\[red]", "[0, 0]"]
    train = SplitReport("train", images=1, per_category=dict.fromkeys(names, 3), notices=["see C:\\[/b]"])
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(LoadReport({"train": train}, ["a [bold] dataset"]).table())
    text = console.export_text()
    assert all(piece in text for piece in (*names, "see C:\\[/b]", "a [bold] dataset")), text


def test_the_report_is_plain_json() -> None:
    content = json.loads(json.dumps(report().to_dict()))
    assert content["splits"]["train"]["dropped"] == {"box without size": 7}
    assert content["notices"] == ["the cache keeps 4 of 4"]
