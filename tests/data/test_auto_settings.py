"""Image size and queries from the boxes of a training set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from detr_mini.data.auto_settings import (
    FEWEST,
    LARGEST,
    MOST,
    SMALL_SIDE,
    SMALLEST,
    STEP,
    check_counts,
    choose_queries,
    choose_size,
    sizes_of,
)
from detr_mini.data.tiles import choose_tiles
from detr_mini.errors import ConfigError
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


def of_sizes(coco: CocoSet, sizes: Sequence[tuple[int, int]]) -> CocoSet:
    """The set with images of these sizes (height, width)."""
    ids = range(1, len(sizes) + 1)
    return replace(coco, records=ImageRecords.of(Path("none"), ids, [f"{i}.png" for i in ids], sizes))


def size_for_one_kind_of_images(coco: CocoSet) -> int:
    """What `choose_size` says of images of one size: what a small box needs, within the bounds and what they have."""
    longest = int(coco.records.sizes.max())
    shares, order = (coco.boxes_xywh[:, 2:].amin(1) / longest).sort()
    weight = 1 / torch.bincount(coco.labels).double()[coco.labels[order]]
    reached = weight.cumsum(0) / weight.sum()
    assume(bool(((reached - 0.1).abs() > 1e-9).all()))  # where it is 0.1, rounding decides
    needed = math.ceil(SMALL_SIDE / float(shares[reached >= 0.1][0]) / STEP) * STEP
    return min(max(SMALLEST, needed), LARGEST, max(STEP, longest // STEP * STEP))


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


@settings(deadline=None)
@given(images_of_boxes.filter(any), st.tuples(st.integers(20, 2000), st.integers(20, 2000)))
def test_images_of_one_size_have_what_a_small_box_needs(images: list[list[Box]], size: tuple[int, int]) -> None:
    coco = boxes_of(images, size)
    assert choose_size(coco).value == size_for_one_kind_of_images(coco)


def test_thumbnails_do_not_hide_the_boxes_of_photographs() -> None:
    thumbnail, photograph = [(80.0, 60.0, 0)], [(100.0, 100.0, 0)]
    for thumbnails, photographs, size in ((60, 40, LARGEST), (95, 5, 96), (0, 5, LARGEST), (5, 0, 96)):
        coco = boxes_of([thumbnail] * thumbnails + [photograph] * photographs)
        assert choose_size(of_sizes(coco, [(75, 100)] * thumbnails + [(3000, 4000)] * photographs)).value == size


def test_images_with_few_boxes_do_not_decide_whether_there_are_tiles() -> None:
    coco = boxes_of([[(80.0, 60.0, 0)]] * 60 + [[(30.0, 30.0, 0)] * 5] * 40)
    coco = of_sizes(coco, [(75, 100)] * 60 + [(3000, 4000)] * 40)
    seen = sizes_of(coco)
    assert seen is not None and seen.image == 4000
    assert choose_tiles(coco, 640).value == 1184  # boxes of 30 pixels have 16 of 640


@pytest.mark.parametrize("name", ["size", "batch_size", "workers", "cache_megabytes"])
def test_null_is_a_count_only_where_it_means_all(name: str) -> None:
    check_counts(eval_batch_size=None, limit_train=None, limit_val=None)
    with pytest.raises(ConfigError, match=rf"data\.{name} is null; it must be at least \d"):
        check_counts(**{name: None})


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
