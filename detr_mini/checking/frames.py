"""Which pixels the boxes of an image were drawn on, where its record states another size than its file has.

The record says the size that the boxes belong to. Where the boxes themselves contradict it, the size is unknown.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from detr_mini.formats.outlines import Points

EDGE = 1.0
"""Pixels by which a box may pass an edge before that says something about the size it was drawn for."""
MANY = 20
"""Boxes in five images or more: none of them reaches beyond the smaller file, so they were drawn on it."""
_LEAST_SPREAD = 0.1
"""Of the logarithm of the sides of an image's boxes, between images."""


@dataclass(frozen=True)
class Frame:
    """How points on an image as its record has it become points on the upright file."""

    move: Callable[[Points], Points]
    area: float
    """Factor of areas."""


AS_IS = Frame(lambda points: points, 1.0)


def turned(orientation: int, stored: tuple[int, int]) -> Frame:
    """From the stored pixels, (height, width), to the upright image, by EXIF orientation."""
    return Frame(lambda points: upright_points(points, orientation, stored), 1.0)


def scaled(wide: float, high: float) -> Frame:
    """From an image to a smaller or larger copy of it."""
    return Frame(lambda points: points * np.array([wide, high]), wide * high)


def upright_points(points: Points, orientation: int, stored: tuple[int, int]) -> Points:
    """Points (x, y) on the stored pixels, (height, width), where they are on the upright image."""
    height, width = stored
    x, y = points[:, 0], points[:, 1]
    right, below = width - x, height - y
    columns = {
        2: (right, y), 3: (right, below), 4: (x, below),
        5: (y, x), 6: (below, x), 7: (below, right), 8: (y, right),
    }.get(orientation, (x, y))  # fmt: skip
    return np.stack(columns, 1)


def moved_box(frame: Frame, box: Sequence[float | int]) -> list[float]:
    """An xywh box by its corners."""
    x, y, w, h = box
    one, two = frame.move(np.array([[x, y], [x + w, y + h]], np.float64))
    low, high = np.minimum(one, two), np.maximum(one, two)
    return [*low.tolist(), *(high - low).tolist()] if w >= 0 and h >= 0 else [*low.tolist(), w, h]


def same_shape(said: tuple[float | int, float | int], size: tuple[int, int]) -> bool:
    """Whether one (height, width) is the other made larger or smaller, up to rounding."""
    scale = math.sqrt(size[0] * size[1] / (said[0] * said[1]))
    return all(abs(s * scale - v) <= max(1.0, scale) for s, v in zip(said, size, strict=True))


def fits(boxes: Float[np.ndarray, "n 4"], size: tuple[float | int, float | int]) -> np.ndarray:
    """Of each xywh box whether it lies inside an image of (height, width), up to EDGE."""
    edge = np.array(size[::-1], np.float64) + EDGE
    return (boxes[:, :2] >= -EDGE).all(1) & (boxes[:, :2] + boxes[:, 2:] <= edge).all(1)


@dataclass(frozen=True)
class Boxes:
    """The usable boxes of one image, xywh, and the category of each."""

    xywh: Float[np.ndarray, "n 4"]
    category: Sequence[Any]


def contradicts(boxes: Boxes, said: tuple[float | int, float | int], size: tuple[int, int]) -> bool:
    """Whether a box lies in the file and not in the image that the record describes: the record is no help."""
    return bool((fits(boxes.xywh, size) & ~fits(boxes.xywh, said)).any())


class Habits:
    """How large boxes of each category are in the images of a split whose records are right."""

    def __init__(self, right: Sequence[tuple[Boxes, tuple[int, int]]]) -> None:
        sides: dict[Any, list[float]] = defaultdict(list)
        for boxes, size in right:
            for side, category in zip(_sides(boxes.xywh, size), boxes.category, strict=True):
                sides[category].append(side)
        self.typical = {category: float(np.median(values)) for category, values in sides.items()}
        means = [m for boxes, size in right if (m := self._mean(boxes, size)) is not None]
        self.spread = max(_LEAST_SPREAD, float(np.std(means))) if len(means) > 2 else math.inf

    def _mean(self, boxes: Boxes, size: tuple[int, int]) -> float | None:
        found = [
            side - self.typical[category]
            for side, category in zip(_sides(boxes.xywh, size), boxes.category, strict=True)
            if category in self.typical
        ]
        return float(np.mean(found)) if found else None

    def fit_the_file(self, boxes: Boxes, said: tuple[float | int, float | int], size: tuple[int, int]) -> bool:
        """Whether boxes are as large as is usual when they are left alone, and by no means when they are scaled."""
        mean = self._mean(boxes, size)
        if mean is None:
            return False
        with_scale = mean + math.log(math.sqrt(size[0] * size[1] / (said[0] * said[1])))
        return abs(mean) <= 2 * self.spread and abs(with_scale) >= 4 * self.spread


def drawn_on_the_file(group: Mapping[int, Boxes], sizes: Mapping[int, tuple[int, int]]) -> bool:
    """Of many images that were said to be larger by one factor: whether no box at all reaches beyond the files."""
    count = sum(len(boxes.xywh) for boxes in group.values())
    return count >= MANY and len(group) >= 5 and all(fits(b.xywh, sizes[i]).all() for i, b in group.items())


def _sides(boxes: Float[np.ndarray, "n 4"], size: tuple[int, int]) -> list[float]:
    return (0.5 * np.log(boxes[:, 2] * boxes[:, 3] / (size[0] * size[1]))).tolist()
