"""By tiles, every object is found once and whole, whatever borders cut it: a detector that sees all of its window."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detector_parts import CATEGORIES
from detr_mini.boxes import box_iou
from detr_mini.errors import ConfigError
from detr_mini.images.tiling import Window, check_tiles, windows_of
from detr_mini.inference.tiles import join_windows
from detr_mini.structures import Detections

VISIBLE = 3.0
"""Pixels of an object's side, as the detector sees it, from which it is found."""


def seen(boxes: torch.Tensor, labels: torch.Tensor, window: Window, noise: float, scale: float) -> Detections:
    """The truth inside a window, cut to it, with errors of `noise` pixels: what a perfect detector returns."""
    left, top, right, bottom = window.xyxy
    inside = torch.stack([boxes[:, 0].clamp(left, right), boxes[:, 1].clamp(top, bottom),
                          boxes[:, 2].clamp(left, right), boxes[:, 3].clamp(top, bottom)], 1)  # fmt: skip
    keep = ((inside[:, 2:] - inside[:, :2]) * scale >= VISIBLE).all(1)
    near = inside[keep] + (torch.rand(int(keep.sum()), 4) * 2 - 1) * noise
    near = torch.stack([near[:, 0].clamp(left, right), near[:, 1].clamp(top, bottom),
                        near[:, 2].clamp(left, right), near[:, 3].clamp(top, bottom)], 1)  # fmt: skip
    moved = near - torch.tensor([left, top, left, top])
    return Detections(moved, 0.7 + 0.3 * torch.rand(len(moved)), labels[keep], CATEGORIES)


def tiled(
    boxes: torch.Tensor, labels: torch.Tensor, size: tuple[int, int], side: int, overlap: float, noise: float = 0.5,
    view: bool = True,
) -> Detections:  # fmt: skip
    windows = windows_of(size, side, overlap)
    found = [(window, seen(boxes, labels, window, noise, 1.0)) for window in windows]
    if len(windows) > 1 and view:
        whole = Window(0, 0, *size, is_view=True)
        found.append((whole, seen(boxes, labels, whole, noise, side / max(size))))
    return join_windows(found, size, CATEGORIES)


def scene(size: tuple[int, int], count: int, least: float, most: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Objects that overlap each other by little, as in a real image."""
    boxes = torch.zeros(0, 4)
    for _ in range(count * 3):
        sides = (least + torch.rand(2) * (most - least)).minimum(torch.tensor([size[1], size[0]]) * 0.95)
        corner = torch.rand(2) * (torch.tensor([size[1], size[0]]) - sides)
        box = torch.cat([corner, corner + sides])[None]
        if not len(boxes) or float(box_iou(box, boxes).max()) < 0.1:
            boxes = torch.cat([boxes, box])
    return boxes[:count], torch.randint(3, (len(boxes[:count]),))


def assert_once_and_whole(found: Detections, boxes: torch.Tensor, labels: torch.Tensor) -> None:
    assert len(found) == len(boxes)
    if len(boxes):
        iou = box_iou(boxes, found.boxes) * (labels[:, None] == found.labels[None])
        assert (iou.max(1).values > 0.75).all(), "every object is found whole"
        assert len(set(iou.argmax(1).tolist())) == len(boxes), "each by a detection of its own"


@given(
    height=st.integers(1, 900), width=st.integers(1, 900), side=st.integers(32, 400), overlap=st.floats(0.05, 0.75)
)  # fmt: skip
def test_windows_cover_the_image_and_neighbours_share_what_was_asked_for(
    height: int, width: int, side: int, overlap: float
) -> None:
    covered = torch.zeros(height, width, dtype=torch.bool)
    windows = windows_of((height, width), side, overlap)
    for window in windows:
        assert (window.height, window.width) == (min(side, height), min(side, width))
        assert window.top >= 0 and window.left >= 0
        assert window.top + window.height <= height and window.left + window.width <= width
        covered[window.top : window.top + window.height, window.left : window.left + window.width] = True
    assert covered.all()
    for starts in (sorted({w.top for w in windows}), sorted({w.left for w in windows})):
        for a, b in pairwise(starts):
            assert a + side - b >= int(side * overlap)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), side=st.integers(96, 320), overlap=st.floats(0.2, 0.6))
def test_objects_that_fit_the_overlap_are_found_once_and_whole(seed: int, side: int, overlap: float) -> None:
    torch.manual_seed(seed)
    size = (int(torch.randint(side // 2, 3 * side, ())), int(torch.randint(side // 2, 4 * side, ())))
    boxes, labels = scene(size, 40, 8, max(9, 0.8 * side * overlap))
    assert_once_and_whole(tiled(boxes, labels, size, side, overlap, view=False), boxes, labels)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), side=st.integers(96, 320), overlap=st.floats(0.15, 0.5))
@example(seed=10_000, side=136, overlap=0.5)  # a small object fills what two windows share of a large one behind it
@example(seed=8_128, side=145, overlap=0.20862888274202357)
def test_objects_of_any_size_up_to_the_image_are_found_once_and_whole(seed: int, side: int, overlap: float) -> None:
    torch.manual_seed(seed)
    size = (int(torch.randint(2 * side, 4 * side, ())), int(torch.randint(2 * side, 4 * side, ())))
    boxes, labels = scene(size, 12, 12, 2.5 * side)
    assert_once_and_whole(tiled(boxes, labels, size, side, overlap), boxes, labels)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), length=st.floats(0.3, 2.5), place=st.floats(0, 1))
def test_a_long_object_is_united_from_its_parts(seed: int, length: float, place: float) -> None:
    torch.manual_seed(seed)
    left = place * (800 - length * 200)
    boxes = torch.tensor([[left, 60.0, left + length * 200, 90.0]])
    labels = torch.tensor([1])
    assert_once_and_whole(tiled(boxes, labels, (400, 800), 200, 0.2, view=False), boxes, labels)


def test_many_objects_have_no_limit_and_no_doubles() -> None:
    torch.manual_seed(0)
    places = torch.stack(torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="xy"), -1).reshape(-1, 2)
    corner = places * 50 + torch.rand(1600, 2) * 8
    boxes = torch.cat([corner, corner + 12 + torch.rand(1600, 2) * 28], 1)
    labels = torch.randint(3, (1600,))
    assert_once_and_whole(tiled(boxes, labels, (2000, 2000), 320, 0.2), boxes, labels)


def test_neighbours_that_a_detector_told_apart_in_one_window_stay_two() -> None:
    boxes = torch.tensor([[40.0, 40.0, 80.0, 80.0], [44.0, 44.0, 84.0, 84.0]])
    found = [(Window(0, 0, 100, 100), Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), CATEGORIES)),
             (Window(0, 80, 100, 100), Detections(boxes[:0], torch.zeros(0), torch.tensor([], dtype=torch.long),
                                                   CATEGORIES))]  # fmt: skip
    assert len(join_windows(found, (100, 180), CATEGORIES)) == 2


@pytest.mark.parametrize(
    ("tiles", "overlap", "sentence"),
    [("big", 0.2, "tiles is big"), (3, 0.2, "at least 16"), (True, 0.2, "tiles is True"), (0.5, 0.2, "tiles is 0.5"),
     (320, 0, "overlap is 0"), (320, 20, "from 0.05 to 0.75"), (320, None, "overlap is None")],
)  # fmt: skip
def test_impossible_tiles_are_one_sentence(tiles: Any, overlap: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_tiles(tiles, overlap)
