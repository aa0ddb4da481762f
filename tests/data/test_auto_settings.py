"""Image size and queries from the boxes of a training set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.data.auto_settings import FEWEST, LARGEST, MOST, SMALL_SIDE, SMALLEST, STEP, choose_queries, choose_size
from detr_mini.formats.load_report import LoadReport, SplitReport
from detr_mini.formats.split import CocoSet, ImageRecords
from detr_mini.structures import Categories

Box = tuple[float, float, int]
"""Width and height in pixels, label."""


def boxes_of(
    images: Sequence[Sequence[Box]], size: tuple[int, int] = (960, 1280), crowd: Sequence[bool] | None = None
) -> CocoSet:
    """A set in memory: of each image its boxes; `size` is (height, width) of all."""
    ids = list(range(1, len(images) + 1))
    flat = [box for boxes in images for box in boxes]
    return CocoSet(
        records=ImageRecords.of(Path("none"), ids, [f"{i}.png" for i in ids], [size] * len(ids)),
        categories=Categories((1, 2), ("large", "small")),
        report=SplitReport("train"),
        first=torch.tensor([0, *map(len, images)]).cumsum(0),
        boxes_xywh=torch.tensor([(0.0, 0.0, w, h) for w, h, _ in flat], dtype=torch.float64).reshape(-1, 4),
        labels=torch.tensor([label for *_, label in flat], dtype=torch.long),
        is_crowd=torch.tensor(crowd if crowd is not None else [False] * len(flat), dtype=torch.bool),
        area=torch.tensor([w * h for w, h, _ in flat]),
    )


sides = st.floats(3, 900)
images_of_boxes = st.lists(st.lists(st.tuples(sides, sides, st.integers(0, 1)), max_size=5), min_size=1, max_size=6)


@settings(deadline=None)
@given(images_of_boxes, st.tuples(st.integers(20, 2000), st.integers(20, 2000)))
def test_the_size_is_whole_strides_in_its_bounds_and_never_more_than_the_images_have(
    images: list[list[Box]], size: tuple[int, int]
) -> None:
    chosen = choose_size(boxes_of(images, size)).value
    assert chosen % STEP == 0
    assert chosen <= min(LARGEST, max(STEP, max(size)))
    assert chosen >= min(SMALLEST, max(size) // STEP * STEP)


@settings(deadline=None)
@given(images_of_boxes.filter(lambda images: any(images)))
def test_nine_of_ten_boxes_are_large_enough_and_a_smaller_size_would_not_do(images: list[list[Box]]) -> None:
    coco = boxes_of(images)
    chosen = choose_size(coco).value
    scaled = coco.boxes_xywh[:, 2:].amin(1) / 1280 * chosen
    weight = 1 / torch.bincount(coco.labels).double()[coco.labels]

    def share_too_small(factor: float) -> float:
        return float(weight[scaled * factor < SMALL_SIDE].sum() / weight.sum())

    if chosen < LARGEST:
        assert share_too_small(1 + 1e-9) <= 0.1 + 1e-9
    if chosen > SMALLEST:
        assert share_too_small((chosen - STEP) / chosen - 1e-9) >= 0.1 - 1e-9


def test_a_rare_small_category_is_not_outvoted() -> None:
    large, small = (300.0, 300.0, 0), (40.0, 60.0, 1)
    assert choose_size(boxes_of([[large] * 20] * 5)).value == SMALLEST
    assert choose_size(boxes_of([[large] * 20, [large] * 20, [large] * 19 + [small]])).value == 512


def test_the_report_says_what_was_chosen_and_why() -> None:
    report = LoadReport()
    report.choose("data.size", choose_size(boxes_of([[(10.0, 10.0, 0)]], (480, 1280))))
    assert report.to_dict()["chosen"] == {"data.size": 640}
    assert report.notices == [
        "data.size=640 is chosen: nine of ten boxes (each category counting the same) are then at least "
        "5 pixels wide and high; 16 would need 2048, but 640 is the most that is chosen"
    ]
    small = choose_size(boxes_of([[(10.0, 10.0, 0)]], (300, 400)))
    assert small.value == 384
    assert "the images themselves are no larger" in small.because


def test_regions_without_a_count_of_things_choose_nothing() -> None:
    crowd = boxes_of([[(10.0, 10.0, 0), (300.0, 300.0, 0)]], crowd=[True, False])
    assert choose_size(crowd).value == SMALLEST
    assert choose_queries(crowd).because == "the fullest training image has 1 boxes"
    assert choose_size(boxes_of([[]])).because == "there is no box to go by"


def test_queries_leave_room_over_the_fullest_image() -> None:
    def queries(*counts: int) -> int:
        return choose_queries(boxes_of([[(50.0, 50.0, 0)] * count for count in counts])).value

    assert queries(0) == queries(3, 1) == FEWEST
    assert queries(5, 28, 2) == 50
    assert queries(34) == 60
    assert queries(1000) == MOST
