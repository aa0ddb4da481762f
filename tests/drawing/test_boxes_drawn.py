"""Boxes and labels on images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

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
