"""D-27: names of categories are never merged by likeness."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_parts import AUTO, write_coco
from detr_mini.checking.check import check
from detr_mini.checking.names import slip
from detr_mini.checking.report import Checked, write_fixed_copy
from detr_mini.formats.discover import Source
from detr_mini.formats.faults import Kind

DIFFERENT = [
    ("with_mask", "without_mask"), ("male", "female"), ("ripe", "unripe"), ("helmet", "no helmet"),
    ("class_a", "class_b"), ("open valve", "close valve"), ("boat", "goat"), ("house", "horse"), ("ship", "chip"),
    ("car left", "car right"), ("type 1", "type 2"), ("A", "a"), ("mouse", "house"), ("truck", "track"),
    ("bear", "pear"), ("normal", "abnormal"), ("hypotension", "hypertension"), ("plane", "plate"),
    ("filled", "filler"), ("tram", "trams 2"), ("ab-1", "ab 1"), ("tigre", "tiger 2"),
]  # fmt: skip
SLIPS = [
    ("motorcycle", "motorcylce"), ("washer", "wascher"), ("traffic light", "trafic light"), ("bolt", "blot"),
    ("person", "preson"), ("bicycle", "bicyvle"), ("elephant", "elephnat"),
]  # fmt: skip


def a_set(root: Path, one: str, two: str, boxes: tuple[int, int] = (20, 6)) -> Path:
    owners = [1] * boxes[0] + [2] * boxes[1]
    annotations = [
        {"image_id": k % 4 + 1, "category_id": c, "bbox": [k, 2 + c, 10 + k / 9, 12]} for k, c in enumerate(owners)
    ]
    names = ({"id": 1, "name": one}, {"id": 2, "name": two})
    write_coco(root, images=[{"id": k} for k in range(1, 5)], annotations=annotations, categories=names)
    return root


def look(root: Path) -> Checked:
    return check(Source.of({"root": root, **AUTO}), pixels=False)


@pytest.mark.parametrize(("one", "two"), [*DIFFERENT, *SLIPS[:2]])
def test_d27_a_fixed_copy_has_the_names_and_the_boxes_of_each_that_the_set_has(
    tmp_path: Path, one: str, two: str
) -> None:
    root = a_set(tmp_path / "set", one, two)
    write_fixed_copy(look(root), tmp_path / "fixed")
    before = json.loads((root / "annotations" / "train.json").read_text())
    after = json.loads((tmp_path / "fixed" / "annotations" / "train.json").read_text())
    assert after["categories"] == before["categories"]
    assert [a["category_id"] for a in after["annotations"]] == [a["category_id"] for a in before["annotations"]]


@pytest.mark.parametrize(("one", "two"), DIFFERENT)
def test_d27_different_names_are_not_called_mistyped(tmp_path: Path, one: str, two: str) -> None:
    assert "mistyped category" not in look(a_set(tmp_path / "set", one, two)).counts
    assert not slip(one, two) and not slip(two, one)


@pytest.mark.parametrize(("right", "wrong"), SLIPS)
def test_d27_a_slip_is_reported_as_a_question(tmp_path: Path, right: str, wrong: str) -> None:
    done = look(a_set(tmp_path / "set", right, wrong, (24, 2)))
    assert [f.sentence for f in done.faults] == [f"{wrong!r} (2 boxes), is {right!r} (24) meant?"]
    assert done.faults[0].fix is None


def test_d27_names_that_differ_in_capitals_or_blanks_are_reported_and_kept(tmp_path: Path) -> None:
    done = look(a_set(tmp_path / "set", "Traffic light", "traffic_light"))
    assert [(f.kind, f.sentence, f.fix) for f in done.faults] == [
        (Kind.SIMILAR_NAMES, "'Traffic light' (20 boxes), 'traffic_light' (6 boxes)", None)
    ]
