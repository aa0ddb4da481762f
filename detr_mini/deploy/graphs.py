"""The parts of an exported file around the network, as ONNX text: pixels to a prepared image, best boxes to detections.

They are written by hand, because their sizes depend on the image: torch can trace neither `target_size` nor the
suppression of doubles for an image of any size. `docs/export.md` describes inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OPSET, IR_VERSION = 18, 10
"""Opset 18 is the first whose Resize has an antialiasing filter."""
SUPPRESSED = -1.0
"""The score of a row that stands for nothing: one that overlaps a better one, or a query of an image too small for all
queries."""
RESIZE = "resize"
"""The name of the node that resizes."""
_HEADER = f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>'


def prepare(image: Mapping[str, Any]) -> str:
    """`images.load.to_model_input` for a batch of pictures of one size.

    `pixels` (uint8, RGB) to `images` (float32), and `sizes`, the (height, width) of each picture. Whole numbers are
    used for the target size, so that it is Python's to the pixel. `exclude_outside` makes the filter's weights those of
    Pillow and torchvision at the border.
    """
    scale = [255 * value for value in image["std"]]
    shift = [255 * value for value in image["mean"]]
    longest = image["shorter_side"] is None
    return f"""{_HEADER}
prepare (uint8[batch, height, width, 3] pixels) => (float[batch, 3, h, w] images, int64[batch, 2] sizes)
<int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}},
 int64[1] size = {{{image["size"]}}}, int64[1] side = {{{image["size"] if longest else image["shorter_side"]}}},
 float[1, 3, 1, 1] shift = {{{_numbers(shift)}}}, float[1, 3, 1, 1] scale = {{{_numbers(scale)}}}>
{{
    shape = Shape (pixels)
    picture = Slice (shape, one, three)
    short = ReduceMin <keepdims = 1> (picture)
    long = ReduceMax <keepdims = 1> (picture)
    {_LONGEST_SIDE if longest else _SHORTER_SIDE}
    batch_size = Slice (shape, zero, one)
    resized_shape = Concat <axis = 0> (batch_size, target, three)
    [{RESIZE}] resized = Resize <mode = "linear", antialias = 1, exclude_outside = 1,
                      coordinate_transformation_mode = "half_pixel"> (pixels, , , resized_shape)
    planes = Transpose <perm = [0, 3, 1, 2]> (resized)
    values = Cast <to = 1> (planes)
    centred = Sub (values, shift)
    images = Div (centred, scale)
    sizes_shape = Concat <axis = 0> (batch_size, two)
    sizes = Expand (picture, sizes_shape)
}}"""


# round(short * size / long): halves go to the even number, as in Python
_ROUNDED = """product = Mul (short, size)
    doubled = Mul (product, two)
    dividend = Add (doubled, long)
    divisor = Mul (long, two)
    nearest = Div (dividend, divisor)
    remainder = Mod (dividend, divisor)
    is_half = Equal (remainder, zero)
    parity = Mod (nearest, two)
    is_odd = Equal (parity, one)
    goes_down = And (is_half, is_odd)
    down = Cast <to = 7> (goes_down)
    even = Sub (nearest, down)
    rounded = Max (even, one)"""
_LONGEST_SIDE = f"""{_ROUNDED}
    is_long = Equal (picture, long)
    target = Where (is_long, side, rounded)"""
# DETR's rule, see `images.load.target_size`
_SHORTER_SIDE = f"""{_ROUNDED}
    wished = Mul (long, side)
    is_too_long = Greater (wished, product_limit)
    shorter = Where (is_too_long, rounded, side)
    whole = Mul (shorter, long)
    longer = Div (whole, short)
    is_short = Equal (picture, short)
    turned = Where (is_short, shorter, longer)
    is_right = Equal (short, shorter)
    target = Where (is_right, picture, turned)""".replace("product_limit", "product")


def finish(classes: int, limit: int, suppress_iou: float | None) -> str:
    """Boxes in pixels of each picture, and the suppression of doubles in each category (`models.heads.suppress`).

    `fractions` are xyxy in [0, 1], `best` their scores, best first, `sizes` the (height, width) of each picture. Rows
    keep their places: a suppressed one gets the score SUPPRESSED.
    """
    return f"""{_HEADER}
finish (float[batch, n, 4] fractions, float[batch, n] best, int64[batch, n] kinds, int64[batch, 2] sizes)
    => (float[batch, n, 4] boxes, float[batch, n] scores, int64[batch, n] labels)
<int64[2] swapped = {{1, 0}}, int64[1] one = {{1}}, int64[2] image_and_row = {{0, 2}},
 int64[1] most = {{{limit}}}, float[1] overlap = {{{suppress_iou or 0.0!r}}}, float[1] least = {{-0.5}},
 float nothing = {{{SUPPRESSED}}}, float zero = {{0.0}}, float unit = {{1.0}},
 int64[1, {classes}, 1] classes = {{{", ".join(map(str, range(classes)))}}}>
{{
    real = Cast <to = 1> (sizes)
    width_height = Gather <axis = 1> (real, swapped)
    corners = Concat <axis = 1> (width_height, width_height)
    unit_of_boxes = Unsqueeze (corners, one)
    boxes = Mul (fractions, unit_of_boxes)
    labels = Identity (kinds)
    {"scores = Identity (best)" if suppress_iou is None else _SUPPRESS}
}}"""


_SUPPRESS = """row_kinds = Unsqueeze (kinds, one)
    is_of_class = Equal (row_kinds, classes)
    row_scores = Unsqueeze (best, one)
    by_class = Where (is_of_class, row_scores, nothing)
    kept = NonMaxSuppression (boxes, by_class, most, overlap, least)
    places = Gather <axis = 1> (kept, image_and_row)
    nowhere = Mul (best, zero)
    kept_count = Shape <start = 0, end = 1> (kept)
    ones = Expand (unit, kept_count)
    marks = ScatterND (nowhere, places, ones)
    is_kept = Greater (marks, zero)
    scores = Where (is_kept, best, nothing)"""


def _numbers(values: list[float]) -> str:
    return ", ".join(repr(float(value)) for value in values)
