"""Progress: bars change nothing in what they show, and other outputs than terminals get lines."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from detr_mini import progress
from detr_mini.progress import ShareBar, track


def test_a_bar_gives_every_item_in_order_and_few_items_have_none() -> None:
    items = [3, 1, 2]
    assert list(track(items, "counting")) == items
    assert list(track(iter(items), "counting", total=3)) == items
    assert track(items, "counting", at_least=4) is items


def test_an_output_that_is_no_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    output = io.StringIO()
    bar = ShareBar("training", Console(file=output))
    bar.show(0.5, "step 1")
    bar.rename("measuring")
    bar.stop()
    assert " 50%  step 1\n" in output.getvalue()
