"""Every place that lists the formats for users names them all, so that a new one is missing nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detr_mini.formats.convert import WRITTEN
from detr_mini.formats.discover import FORMATS
from detr_mini.help_texts import VERBS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("config", "key"),
    [("data_convert", "to"), ("data_label", "format"), ("data_next", "format"), ("data_doubt", "format")],
)
def test_a_config_names_every_format_that_is_written(config: str, key: str) -> None:
    text = (ROOT / "configs" / f"{config}.yaml").read_text(encoding="utf-8")
    line = re.search(rf"^{key}: .*", text, re.MULTILINE)
    assert line is not None
    missing = set(WRITTEN) - set(re.findall(r"\w+", line[0]))
    assert not missing, f"configs/{config}.yaml: add {', '.join(sorted(missing))} to the comment of '{key}'"


@pytest.mark.parametrize(("verb", "option"), [("data convert", "to="), ("data doubt", "format=")])
def test_the_help_names_every_format_that_is_written(verb: str, option: str) -> None:
    line = next(line for line in VERBS[verb].keys.splitlines() if line.strip().startswith(option))
    missing = set(WRITTEN) - set(re.findall(r"\w+", line))
    assert not missing, f"detr_mini/help_texts.py, '{verb}', {option}: add {', '.join(sorted(missing))}"


def test_the_page_on_layouts_has_a_row_for_every_format_and_their_order() -> None:
    page = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]*?) \(`(\w+)`\) \|", page, re.MULTILINE))
    assert set(rows.values()) == set(FORMATS)
    order = re.search(r"in the order ([\w ,]+?),? and the others", page.replace("\n  ", " "))
    assert order is not None
    names = {**rows, "VOC": "voc", "CVAT": "cvat"}
    assert [names[title] for title in order[1].split(", ")] == list(FORMATS)


def test_every_format_has_a_title_for_errors() -> None:
    assert all(known.title for known in FORMATS.values())
