"""Planted label faults are the first doubts of a detector that sees well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.formats.tree import Tree
from detr_mini.labelling.doubt_task import doubted, record_of, task_tree
from detr_mini.labelling.doubts import Boxes, Kind, doubts
from detr_mini.labelling.folds import _joined

RIGHT = [[10.0, 10, 30, 30], [50.0, 10, 70, 30], [10.0, 50, 40, 80], [60.0, 60, 90, 90]]
NAMES = ["bolt", "nut", "bolt", "nut"]


def boxes(xyxy: list[list[float]], names: list[str], scores: list[float] | None = None) -> Boxes:
    given = [1.0] * len(names) if scores is None else scores
    return Boxes(torch.tensor(xyxy).reshape(-1, 4), tuple(names), torch.tensor(given))


SEEN = boxes(RIGHT, NAMES, [0.9] * 4)


def first(labels: Boxes) -> tuple[Kind, int | None]:
    """The first doubt about a picture among nine sound ones."""
    doubt = doubts([boxes(RIGHT, NAMES)] * 9 + [labels], [SEEN] * 10)[0]
    assert doubt.image == 9
    return doubt.kind, doubt.label


def test_right_labels_are_not_doubted() -> None:
    assert all(doubt.score < 0.06 for doubt in doubts([boxes(RIGHT, NAMES)], [SEEN]))


def test_a_turned_label_is_compared_as_the_upright_box_around_it() -> None:
    turned = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [50, 50, 100, 20], "attributes": {"rotation": 90}}
    found = doubted(tree_with(turned), {1: boxes([[90.0, 10, 110, 110]], ["bolt"], [0.9])})
    assert [doubt.kind for doubt in found.doubts if doubt.score > 0.1] == []


def test_the_task_holds_all_labels_crowd_regions_too_and_none_as_a_proposal() -> None:
    rows = [
        {"id": 7, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20], "score": 0.4},
        {"id": 8, "image_id": 1, "category_id": 3, "bbox": [0, 0, 90, 90], "iscrowd": 1},
    ]
    found = doubted(tree_with(*rows), {1: boxes([[50.0, 50, 90, 90]], ["bolt"], [0.9])})
    first = found.doubts
    records = [record_of(found, doubt, rank) for rank, doubt in enumerate(first, 1)]
    written = task_tree(found, first, records, "cvat").content["annotations"]
    labels = [a for a in written if "score" not in a]
    assert [a["bbox"] for a in labels] == [[10, 10, 20, 20], [0, 0, 90, 90]]
    assert [a["score"] for a in written if "score" in a] == [0.9], "a proposal for what is missing"


def tree_with(*annotations: dict[str, Any]) -> Tree:
    images = [{"id": 1, "file_name": "a.png", "height": 200, "width": 200}]
    categories = [{"id": 3, "name": "bolt"}, {"id": 4, "name": "nut"}]
    content = {"images": images, "annotations": list(annotations), "categories": categories}
    return Tree(content, Path(), Path())


def test_a_missing_label() -> None:
    assert first(boxes(RIGHT[1:], NAMES[1:])) == (Kind.MISSING, None)


@pytest.mark.parametrize("move", [8.0, 12.0])
def test_a_displaced_label(move: float) -> None:
    moved = [[RIGHT[0][0] + move, 10, RIGHT[0][2] + move, 30], *RIGHT[1:]]
    assert first(boxes(moved, NAMES)) == (Kind.DISPLACED, 0)


def test_a_misnamed_label() -> None:
    assert first(boxes(RIGHT, ["nut", *NAMES[1:]])) == (Kind.MISNAMED, 0)


def test_a_doubled_label() -> None:
    kind, label = first(boxes([*RIGHT, [11.0, 10, 31, 30]], [*NAMES, "bolt"]))
    assert kind is Kind.DOUBLED and label in (0, 4)


def test_a_label_of_nothing() -> None:
    assert first(boxes([*RIGHT, [100.0, 100, 120, 120]], [*NAMES, "bolt"])) == (Kind.SPURIOUS, 4)


def test_two_objects_beside_each_other_are_not_one_label_twice() -> None:
    pair = [[10.0, 10, 30, 30], [14.0, 10, 34, 30]]
    seen = boxes(pair, ["bolt", "bolt"], [0.9, 0.9])
    assert doubts([boxes(pair, ["bolt", "bolt"])], [seen])[0].score < 0.1


def test_a_detector_with_loose_boxes_doubts_only_what_is_looser_than_usual() -> None:
    loose = boxes([[x, y, c + 6, d + 6] for x, y, c, d in RIGHT], NAMES, [0.9] * 4)
    found = doubts([boxes(RIGHT, NAMES)] * 10, [loose] * 10)
    assert all(doubt.score < 0.1 for doubt in found if doubt.kind is Kind.DISPLACED)


names = st.sampled_from(["bolt", "nut"])
box = st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 40), st.integers(1, 40))
some = st.lists(st.tuples(box, names, st.floats(0, 1)), max_size=6).map(
    lambda rows: boxes(
        [[float(x), y, x + w, y + h] for (x, y, w, h), _, _ in rows], [n for _, n, _ in rows], [s for *_, s in rows]
    )
)


@given(st.lists(st.tuples(some, some), max_size=3))
def test_scores_are_shares_in_order_and_no_label_is_doubted_twice(pictures: list[tuple[Boxes, Boxes]]) -> None:
    found = doubts([labels for labels, _ in pictures], [seen for _, seen in pictures])
    scores = [doubt.score for doubt in found]
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
    labels = [(doubt.image, doubt.label) for doubt in found if doubt.label is not None]
    assert len(labels) == len(set(labels))
    missing = [(doubt.image, doubt.detection) for doubt in found if doubt.kind is Kind.MISSING]
    assert len(missing) == len(set(missing))


def test_what_two_detectors_find_in_a_large_picture_counts_once_in_every_category() -> None:
    names = [f"{number:02}" for number in range(80)]
    one = boxes([*[[39_990.0, 39_990, 40_000, 40_000]] * 79, [100.12, 100, 101.12, 101]], names, [0.9] * 80)
    other = boxes([[100.13, 100, 101.13, 101]], names[-1:], [0.8])
    assert sorted(_joined([one, other]).names) == names
