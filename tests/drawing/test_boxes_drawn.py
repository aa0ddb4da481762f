"""Boxes and labels on images."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from detr_mini.drawing.boxes import _free_place as free_place
from detr_mini.drawing.boxes import colour_of, draw_boxes, draw_detections, draw_truth, to_picture
from detr_mini.structures import Categories, Detections, Target

CATEGORIES = Categories((1, 2), ("bolt", "a rather long name of a category"))


def found(boxes: list[list[float]]) -> Detections:
    n = len(boxes)
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.linspace(0.9, 0.4, n), torch.arange(n) % 2, CATEGORIES)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 300),
    st.lists(st.tuples(*[st.floats(-50, 400)] * 4), max_size=6),
    st.text(max_size=60),
)  # fmt: skip
def test_no_box_and_no_text_changes_the_size_of_the_picture(
    width: int, height: int, boxes: list[tuple[float, ...]], text: str
) -> None:
    picture = Image.new("RGB", (width, height), "grey")
    ordered = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    drawn = draw_boxes(picture, torch.tensor(ordered).reshape(-1, 4), [text] * len(boxes), list(range(len(boxes))))
    assert drawn.size == (width, height)
    assert picture.getcolors() == [(width * height, (128, 128, 128))]


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 400), st.integers(8, 400), st.tuples(*[st.floats(0, 1)] * 4), st.text(min_size=1, max_size=80))
def test_no_text_crosses_the_border_of_the_picture(
    width: int, height: int, corners: tuple[float, ...], text: str
) -> None:
    class Pen(ImageDraw.ImageDraw):
        def text(self, xy, text, *args, **kwargs):  # type: ignore[no-untyped-def]
            inked.append(self.textbbox(xy, text, font=kwargs["font"], anchor=kwargs["anchor"]))

    inked: list[tuple[float, float, float, float]] = []
    a, b, c, d = corners
    box = torch.tensor([[min(a, c) * width, min(b, d) * height, max(a, c) * width, max(b, d) * height]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageDraw, "Draw", Pen)
        draw_boxes(Image.new("RGB", (width, height)), box, [text], [0])
    assert inked or width < 100 or not text.split()
    for left, top, right, bottom in inked:
        assert left >= 0
        assert right <= width + 1
        if height >= 20:
            assert top >= 0
            assert bottom <= height


Place = tuple[int, int, int, int]


def plainly_free(
    box: Place, size: tuple[int, int], line: int, picture: tuple[int, int], taken: Sequence[Place]
) -> Place:
    """`free_place`, by what a text has in common with each earlier one."""

    def common(a: Place, b: Place) -> int:
        width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) + 1 for k in (0, 1))
        return max(width, 0) * max(height, 0)

    (x1, y1, x2, y2), (width, height) = box, size
    costs = []
    across, down = (x1, x2 - width + 1), (y1 - height, y2 + 1, y1, y2 - height)
    for rank, (x, y) in enumerate((x, y) for y in down for x in across):
        left, top = min(max(x, 0), max(0, picture[0] - width)), min(max(y, 0), max(0, picture[1] - height))
        place = (left, top, min(left + width, picture[0]) - 1, min(top + height, picture[1]) - 1)
        moved = abs(top - y) > line
        cost = sum(common(place, other) for other in taken)
        costs.append((cost + rank * 0.01 * width * height + moved * 0.3 * width * height, rank, place))
    return min(costs)[2]


@given(
    st.integers(1, 60), st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59), st.integers(0, 30), st.integers(0, 30),
                       st.integers(3, 70), st.integers(3, 70)), max_size=12),
)  # fmt: skip
def test_a_text_lies_where_it_covers_least_of_the_earlier_ones(
    width: int, height: int, boxes: list[tuple[int, ...]]
) -> None:
    covered, taken = np.zeros((height, width), np.int32), list[Place]()
    for x, y, w, h, *size in boxes:
        x, y = min(x, width - 1), min(y, height - 1)
        box = (x, y, min(x + w, width - 1), min(y + h, height - 1))
        place = free_place(box, (size[0], size[1]), 2, covered)
        assert place == plainly_free(box, (size[0], size[1]), 2, (width, height), taken)
        taken.append(place)
        covered[place[1] : place[3] + 1, place[0] : place[2] + 1] += 1


def test_four_times_the_boxes_cost_four_times_the_work() -> None:
    """By counting calls, since time on a busy machine says little."""

    def calls(count: int) -> int:
        corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * 900
        boxes, made = torch.cat([corners, corners + 40], 1), 0

        def counted(*_: object) -> None:
            nonlocal made
            made += 1

        sys.setprofile(counted)
        try:
            draw_boxes(Image.new("RGB", (1000, 1000)), boxes, ["bolt 0.50"] * count, [0] * count)
        finally:
            sys.setprofile(None)
        return made

    assert calls(800) < 5 * calls(200)


def test_without_detections_no_pixel_changes() -> None:
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    assert np.array_equal(np.asarray(draw_detections(image, found([]))), image.permute(1, 2, 0).numpy())


def test_a_box_is_drawn_at_its_place_also_in_an_enlarged_picture() -> None:
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    for longest, scale in ((None, 1), (300, 3)):
        drawn = np.asarray(draw_detections(image, found([[40.0, 60.0, 70.0, 90.0]]), longest))
        inside = (drawn == colour_of(0)).all(-1)
        rows, columns = np.nonzero(inside[60 * scale :])[0] + 60 * scale, np.nonzero(inside[60 * scale :])[1]
        assert (columns.min(), columns.max()) == (40 * scale, 70 * scale)
        assert rows.max() == 90 * scale


def test_colours_of_many_categories_differ() -> None:
    assert len({colour_of(label) for label in range(91)}) == 91


def test_ground_truth_has_the_same_colours_as_detections() -> None:
    image = torch.zeros(3, 200, 200, dtype=torch.uint8)
    target = Target(
        torch.tensor([[0.5, 0.5, 0.4, 0.4]]), torch.tensor([1]), 1, (200, 200), torch.tensor([True]), torch.ones(1)
    )
    assert (np.asarray(draw_truth(image, target, CATEGORIES)) == colour_of(1)).all(-1).any()


def test_a_tensor_becomes_an_equal_picture() -> None:
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    assert np.array_equal(np.asarray(to_picture(image)), image.permute(1, 2, 0).numpy())
