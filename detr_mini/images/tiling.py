"""Windows that cover a large image: where they lie, and which settings are possible."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from detr_mini.errors import ConfigError

SMALLEST = 16
"""Pixels of a tile's side, at least."""
SMALL_SIDE = 16
"""Pixels of a small box's shorter side in the model: a cell of the memory that the queries come from."""


@dataclass(frozen=True)
class BoxSizes:
    """How large the images and boxes of a training set are, in pixels of the files."""

    image: float
    """The median of the images' longer sides, each once for every box; of tiles, where the training cut images."""
    small: float
    """A tenth of the boxes have a smaller shorter side, every category counting the same."""
    large: float
    """A tenth of the boxes have a larger longer side."""
    shape: float = 1.0
    """Height divided by width of the images where most have one shape, else 1."""

    def tile_side(self, size: int) -> int:
        """The side of windows for a model with images of `size`, in pictures of the same kind as the training images.

        The largest at which nine of ten boxes have SMALL_SIDE pixels in the model. But it is never less than twice the
        length of nine of ten boxes, and between half and all of the side of the training images, since the model knows
        objects at that scale. Small boxes may then have fewer pixels: 6.4 of 640, if they have 30 in images of 6,000.
        """
        wanted = max(self.small * size / SMALL_SIDE, 2 * self.large, self.image / 2, SMALLEST)
        return round(min(wanted, max(self.image, SMALLEST)))


def are_box_sizes(value: Any) -> bool:
    """Whether a value from a file is what `asdict` makes of `BoxSizes`, or did before it had a shape."""
    return (
        isinstance(value, dict)
        and {*value, "shape"} == {entry.name for entry in fields(BoxSizes)}
        and all(isinstance(number, int | float) and math.isfinite(number) and number > 0 for number in value.values())
    )


@dataclass(frozen=True)
class Window:
    """A part of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int
    is_view: bool = False
    """The entire image in a smaller size, for objects larger than a tile."""

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """Its box."""
        return self.left, self.top, self.left + self.width, self.top + self.height


def check_tiles(tiles: object, overlap: object, names: tuple[str, str] = ("tiles", "overlap")) -> None:
    """ConfigError where `tiles` is no side of windows, "auto" or None, or `overlap` no possible share.

    `names`: what the settings are called.
    """
    is_side = isinstance(tiles, int) and not isinstance(tiles, bool) and tiles >= SMALLEST
    if tiles is not None and tiles != "auto" and not is_side:
        raise ConfigError(f"{names[0]} is {tiles}; it must be auto, null or the side of a window in pixels, "
                          f"at least {SMALLEST}")  # fmt: skip
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0.05 <= overlap <= 0.75:
        raise ConfigError(f"{names[1]} is {overlap}; it must be a share of a window's side from 0.05 to 0.75")


def windows_of(size: tuple[int, int], side: int, overlap: float | int, shape: float = 1.0) -> list[Window]:
    """Windows of `side` pixels that cover an image of `size` (height, width), row by row, evenly spaced.

    `side` is the longer one where `shape`, the height divided by the width, is not 1. Neighbours share at least
    `overlap` of their side. An image that is no larger than a window is one window.
    """
    sides = round(side * min(1.0, shape)), round(side * min(1.0, 1 / shape))
    tops, lefts = (_starts(length, own, overlap) for length, own in zip(size, sides, strict=True))
    height, width = map(min, sides, size)
    return [Window(top, left, height, width) for top in tops for left in lefts]


def _starts(length: int, side: int, overlap: float | int) -> list[int]:
    if length <= side:
        return [0]
    step = max(1, int(side * (1 - overlap)))
    steps = math.ceil((length - side) / step)
    return [(length - side) * i // steps for i in range(steps + 1)]
