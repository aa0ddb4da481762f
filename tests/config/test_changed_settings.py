"""Which settings `resume=` may change: the page and the code say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from detr_mini.config.changed_settings import CHANGEABLE, SHAPE

PAGE = Path(__file__).parents[2] / "docs" / "run-folder.md"
OF_THE_COMMAND = {"resume", "explicit"}
"""How a run was started is no setting of it."""


def rows() -> Iterator[tuple[set[str], str]]:
    """The settings in each row of the table, written out, and what happens to them."""
    table = PAGE.read_text("utf-8").partition("| settings | with `resume=` |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        _, settings, what, _ = (cell.strip() for cell in line.split("|"))
        section, found = "", set()
        for key in re.findall(r"`([\w.*]+)`", settings):
            first, dot, _ = key.partition(".")
            if dot and first in ("trainer", "data", "optim", "criterion", "operating_point", "logger"):
                section = first
            elif section and key != "modules":
                key = f"{section}.{key}"
            found.add(key.removesuffix(".*"))
        yield found, what


def test_the_page_lists_every_setting_that_a_resumed_run_takes() -> None:
    applied = {key for keys, what in rows() if what.startswith("applied") and "together" not in what for key in keys}
    assert applied == set(CHANGEABLE) - OF_THE_COMMAND


def test_the_page_lists_the_settings_that_change_together() -> None:
    (together,) = [keys for keys, what in rows() if what.startswith("applied together")]
    assert together == set(SHAPE)
