"""The rules for boxes that readers, the check and writers share: what a box is, and which part of it counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from detr_mini.formats.faults import Kind
from detr_mini.formats.values import as_number, is_number

MOST_PIXELS = 1e9
"""Larger coordinates are no pixels."""
ROUNDING = 0.5
"""Pixels by which a box may stick out of its image before that is worth a line in the report."""
SLACK = 0.01
"""A share of an image outside 0 to 1 by at most this is a rounding error; more is another unit."""
CORNERS = (
    "the boxes of {path} look like left, top, right, bottom: most stick out of their images as {read}, "
    "and all fit as corners; set data.box_corners=true to read them so"
)
"""The error where `look_like_corners`; `read`: what the four numbers are taken for."""
SHARES = (
    "the boxes of {path} look like shares of the image: no number in them is above 1, and pixels are expected; "
    "multiply x and width by the image's width, y and height by its height (YOLO's files hold shares, and are read so)"
)
"""The error where `look_like_shares`."""
_SMALLEST = 8
"""Pixels of the shorter side from which an image is no test pattern whose boxes may be of one pixel."""
_FEW = 3
"""Fewer boxes than this say nothing about what their numbers mean."""


class BoxFault(Enum):
    """What is wrong with a box of four numbers in its image."""

    PAST_EDGE = Kind.BOX_PAST_EDGE, "sticks out of the image of {width} x {height}"
    OUTSIDE = Kind.BOX_OUTSIDE, "lies outside the image of {width} x {height}"
    NO_HEIGHT = Kind.BOX_WITHOUT_SIZE, "has no height"
    NO_WIDTH = Kind.BOX_WITHOUT_SIZE, "has no width"

    @property
    def kind(self) -> Kind:
        """The kind of fault in tables and reports."""
        return self.value[0]

    def text(self, size: Sequence[int]) -> str:
        """The predicate of a sentence about the box, in an image of (height, width)."""
        return self.value[1].format(width=size[1], height=size[0])


def is_box(value: Any) -> bool:
    """Whether it is a list of four numbers that can be pixels."""
    return isinstance(value, list) and len(value) == 4 and all(is_number(v) and abs(v) <= MOST_PIXELS for v in value)


def from_corners(box: Sequence[float | int]) -> list[float | int]:
    """Left, top, right, bottom as left, top, width, height."""
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


def rotation_of(annotation: Mapping[str, Any]) -> float:
    """The angle that labelling tools put beside an unturned box (`attributes: {"rotation": 60}`), in degrees."""
    attributes = annotation.get("attributes")
    angle = attributes.get("rotation") if isinstance(attributes, Mapping) else None
    value = as_number(angle)
    return float(value) % 360 if is_number(value) else 0.0


def area_of(value: Any) -> float:
    """An annotation's area, NaN where it is not a positive number."""
    return float(value) if is_number(value) and value > 0 else math.nan


def clip_boxes(
    boxes_xywh: Float[np.ndarray, "n 4"], sizes: Int[np.ndarray, "n 2"]
) -> tuple[Float[np.ndarray, "n 4"], list[BoxFault | None]]:
    """The part of each box inside its image (height, width), and what is wrong with the box, if anything.

    A box of which nothing is inside comes back as it is. One that sticks out by less than `ROUNDING` is cut without a
    fault.
    """
    x_y, w_h = boxes_xywh[:, :2], boxes_xywh[:, 2:]
    edge = sizes[:, ::-1].astype(np.float64)
    low, high = np.maximum(x_y, 0.0), np.minimum(x_y + w_h, edge)
    past = np.maximum(low - x_y, x_y + w_h - high).max(1, initial=0.0)
    empty, outside = (w_h <= 0).any(1), (high <= low).any(1)
    inside = ~empty & ~outside
    clipped = np.where((inside & (past > 0))[:, None], np.concatenate([low, high - low], 1), boxes_xywh)
    faults: list[BoxFault | None] = [None] * len(boxes_xywh)
    for found, fault in (
        (inside & (past > ROUNDING), BoxFault.PAST_EDGE),
        (outside, BoxFault.OUTSIDE),
        (w_h[:, 1] <= 0, BoxFault.NO_HEIGHT),
        (w_h[:, 0] <= 0, BoxFault.NO_WIDTH),
    ):
        for row in np.flatnonzero(found).tolist():
            faults[row] = fault
    return clipped, faults


def enclosing(boxes_xywh: Float[np.ndarray, "n 4"], degrees: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 4"]:
    """The upright box around each box turned by `degrees` about its centre."""
    cos, sin = np.abs(np.cos(np.radians(degrees))), np.abs(np.sin(np.radians(degrees)))
    x, y, w, h = boxes_xywh.T
    wide, high = w * cos + h * sin, w * sin + h * cos
    return np.stack([x + w / 2 - wide / 2, y + h / 2 - high / 2, wide, high], 1)


def upright(annotation: Mapping[str, Any]) -> list[float]:
    """Left, top, width, height of the upright box around an annotation's, which may be turned."""
    box, angle = [float(v) for v in annotation["bbox"]], rotation_of(annotation)
    turned = angle % 180 and min(box[2:]) > 0  # a box without size is not turned, so that it stays one
    return enclosing(np.array([box]), np.array([angle]))[0].tolist() if turned else box


def ellipse_edges(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float
) -> tuple[list[float], list[float]]:
    """Left and right, top and bottom of an ellipse turned about its centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    wide, high = math.hypot(radii[0] * cos, radii[1] * sin), math.hypot(radii[0] * sin, radii[1] * cos)
    return [centre[0] - wide, centre[0] + wide], [centre[1] - high, centre[1] + high]


class ReadBoxes(NamedTuple):
    """Boxes as a training reads them."""

    boxes_xywh: Float[np.ndarray, "n 4"]
    """Upright, the part inside the image."""
    area: Float[np.ndarray, " n"]
    """See `area_of_objects`."""
    turned: Bool[np.ndarray, " n"]
    faults: list[BoxFault | None]


def as_read(
    written: Float[np.ndarray, "n 4"],
    degrees: Float[np.ndarray, " n"],
    sizes: Int[np.ndarray, "n 2"],
    stated: Float[np.ndarray, " n"],
) -> ReadBoxes:
    """Boxes (xywh) turned by `degrees`, in images of `sizes` (height, width), with the areas that are `stated`.

    A box without size is not turned, so that it stays one.
    """
    turned = (degrees % 180 != 0) & (written[:, 2:] > 0).all(1)
    boxes, faults = clip_boxes(np.where(turned[:, None], enclosing(written, degrees), written), sizes)
    is_cut = np.array([fault is BoxFault.PAST_EDGE for fault in faults], bool)
    area = area_of_objects(stated, np.where(turned[:, None], written, boxes), boxes, is_cut)
    return ReadBoxes(boxes, area, turned, faults)


def area_of_objects(
    stated: Float[np.ndarray, " n"],
    drawn_xywh: Float[np.ndarray, "n 4"],
    boxes_xywh: Float[np.ndarray, "n 4"],
    is_cut: Bool[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """The area of each object: as stated, where NaN that of its box as drawn; of a box that is cut, at most its own.

    `drawn_xywh`: a turned box as it is before it is turned, since the upright box around it is larger than the object.
    """
    area = np.where(np.isnan(stated), drawn_xywh[:, 2] * drawn_xywh[:, 3], stated)
    return np.where(is_cut, np.minimum(area, boxes_xywh[:, 2] * boxes_xywh[:, 3]), area)


def look_like_shares(boxes_xywh: Float[np.ndarray, "n 4"], edges: Float[np.ndarray, "n 2"]) -> bool:
    """Whether nearly all boxes are at most about one pixel from the top left of their images (width, height)."""
    if not len(boxes_xywh) or edges.min() < _SMALLEST:
        return False
    inside = ((boxes_xywh >= -SLACK) & (boxes_xywh <= 1 + SLACK)).all(1)
    return bool(inside.mean() > 0.98 and (boxes_xywh % 1).any())


def look_like_corners(
    written: Float[np.ndarray, "n 4"],
    boxes_xywh: Float[np.ndarray, "n 4"],
    edges: Float[np.ndarray, "n 2"],
    rounding: float,
) -> bool:
    """Whether most boxes stick out of their images, and nearly all fit if their four numbers are corners.

    `written`: the four numbers; `boxes_xywh`: what they are taken for; `edges`: (width, height) of each image, in the
    same unit as `rounding`, by which a box may stick out.
    """
    if len(written) < _FEW:
        return False
    ends = boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    sticks = ((boxes_xywh[:, :2] < -rounding) | (ends > edges + rounding)).any(1)
    low, high = written[:, :2], written[:, 2:]
    fits = ((high > low) & (low >= -rounding) & (high <= edges + rounding)).all(1)
    return bool(sticks.mean() > 0.5 and fits.mean() > 0.98)
