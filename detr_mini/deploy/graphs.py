"""The parts of an exported file around the network, as ONNX text: pixels to a prepared image, best boxes to detections.

They are written by hand, because their sizes depend on the image: torch can trace neither `target_size` nor the
suppression of doubles for an image of any size. `docs/export.md` describes inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OPSET, IR_VERSION = 18, 10
SUPPRESSED = -1.0
"""The score of a row that stands for nothing: one that overlaps a better one, or a query of an image too small for all
queries."""
BLOCK = 16
"""Rows or columns that are resized together: more are more products with zeros, fewer are more copies of inputs."""
_HEADER = f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>'


def prepare(image: Mapping[str, Any]) -> str:
    """`images.model_input.to_model_input` for a batch of pictures of one size.

    `pixels` (uint8, RGB) to `images` (float32), and `sizes`, the (height, width) of each picture. Whole numbers are
    used for the target size, so that it is Python's to the pixel. ONNX's Resize is not used: its antialiasing filter is
    Pillow's, which differs from torchvision's by one grey level in up to 2 % of the pixels, enough to change which
    boxes a detector reports; and OpenVINO reads the operation without its filter.
    """
    scale = [255 * value for value in image["std"]]
    shift = [255 * value for value in image["mean"]]
    longest, exact, multiple = image["shorter_side"] is None, image.get("exact"), image.get("multiple", 1)
    sides = "exact" if exact is not None else "target" if multiple == 1 else "whole_target"
    target = "" if exact is not None else _LONGEST_SIDE if longest else _SHORTER_SIDE
    smooth = image.get("antialias", True)
    return f"""{_HEADER}
prepare (uint8[batch, height, width, 3] pixels) => (float[batch, 3, h, w] images, int64[batch, 2] sizes)
<int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}},
 int64[1] open = {{-1}}, int64[1] block = {{{BLOCK}}}, int64[1] slack = {{4}}, int64 first = {{0}}, int64 step = {{1}},
 int64[2] block_axes = {{1, 2}},
 int64[1, {BLOCK}, 1] in_block = {{{", ".join(map(str, range(BLOCK)))}}},
 float unit = {{1.0}}, float half = {{0.5}}, float tiny = {{1e-6}}, float most = {{255.0}}, float none = {{0.0}},
 float base = {{2.0}}, float log_base = {{0.6931471805599453}}, float largest = {{32767.5}}, float finest = {{22.0}},
 int64[1] size = {{{image["size"]}}}, int64[1] side = {{{image["size"] if longest else image["shorter_side"]}}},
 int64[2] exact = {{{", ".join(map(str, exact or (1, 1)))}}}, int64[1] multiple = {{{multiple}}},
 float[1, 3, 1, 1] shift = {{{_numbers(shift)}}}, float[1, 3, 1, 1] scale = {{{_numbers(scale)}}}>
{{
    shape = Shape (pixels)
    picture = Slice (shape, one, three)
    short = ReduceMin <keepdims = 1> (picture)
    long = ReduceMax <keepdims = 1> (picture)
    {target}
    {_WHOLE_MULTIPLE if sides == "whole_target" else ""}
    batch_size = Slice (shape, zero, one)
    height = Slice (shape, one, two)
    width = Slice (shape, two, three)
    new_height = Slice ({sides}, zero, one)
    new_width = Slice ({sides}, one, two)
    columns_first = Transpose <perm = [0, 2, 1, 3]> (pixels)
    columns_shape = Concat <axis = 0> (batch_size, width, open)
    columns = Reshape (columns_first, columns_shape)
    {_resized("x", "columns", "width", "new_width", smooth)}
    narrow_shape = Concat <axis = 0> (batch_size, new_width, height, three)
    narrow_columns = Reshape (x_resized, narrow_shape)
    rows_first = Transpose <perm = [0, 2, 1, 3]> (narrow_columns)
    rows_shape = Concat <axis = 0> (batch_size, height, open)
    rows = Reshape (rows_first, rows_shape)
    {_resized("y", "rows", "height", "new_height", smooth)}
    resized_shape = Concat <axis = 0> (batch_size, new_height, new_width, three)
    resized = Reshape (y_resized, resized_shape)
    values = Transpose <perm = [0, 3, 1, 2]> (resized)
    centred = Sub (values, shift)
    images = Div (centred, scale)
    sizes_shape = Concat <axis = 0> (batch_size, two)
    sizes = Expand (picture, sizes_shape)
}}"""


def _resized(axis: str, lines: str, old: str, new: str, smooth: bool) -> str:
    """Text that makes `{axis}_resized` (batch, new, c) of `lines` (batch, old, c): torchvision's bilinear filter.

    Output i is the average of the inputs j with weights max(0, 1 - |2 m (j + 1/2) - 2 n (i + 1/2)| / (2 max(n, m))), n
    inputs to m outputs. As in torchvision, a weight is a whole number of 15 bits times a power of two, and each axis is
    rounded. BLOCK outputs at a time are a matrix product with the inputs that they can reach. If not `smooth`, without
    antialiasing, max(n, m) is m, and nothing is rounded.
    """
    text = """#outputs_up = Add (NEW, block)
    #rounded_up = Sub (#outputs_up, one)
    #blocks = Div (#rounded_up, block)
    #longer = Max (OLD, NEW)
    #reach = Mul (REACHED, two)
    #block_inputs = Mul (OLD, block)
    #span_inputs = Add (#block_inputs, #reach)
    #span = Div (#span_inputs, NEW)
    #length = Add (#span, slack)
    #block_count = Squeeze (#blocks)
    #block_range = Range (first, #block_count, step)
    #block_starts = Mul (#block_range, block)
    #block_column = Unsqueeze (#block_starts, block_axes)
    #outputs = Add (#block_column, in_block)
    #length_count = Squeeze (#length)
    #length_range = Range (first, #length_count, step)
    #twice_starts = Mul (#block_column, two)
    #odd_starts = Add (#twice_starts, one)
    #centre_starts = Mul (#odd_starts, OLD)
    #left_reach = Sub (#centre_starts, #reach)
    #twice_new = Mul (NEW, two)
    #left_cells = Div (#left_reach, #twice_new)
    #left = Sub (#left_cells, two)
    #inputs = Add (#left, #length_range)
    #twice_inputs = Mul (#inputs, two)
    #odd_inputs = Add (#twice_inputs, one)
    #input_centres = Mul (#odd_inputs, NEW)
    #twice_outputs = Mul (#outputs, two)
    #odd_outputs = Add (#twice_outputs, one)
    #output_centres = Mul (#odd_outputs, OLD)
    #offsets = Sub (#input_centres, #output_centres)
    #whole_distances = Abs (#offsets)
    #distances = Cast <to = 1> (#whole_distances)
    #real_reach = Cast <to = 1> (#reach)
    #shares = Div (#distances, #real_reach)
    #slopes = Sub (unit, #shares)
    #triangle = Max (#slopes, none)
    #not_before = GreaterOrEqual (#inputs, zero)
    #not_behind = Less (#inputs, OLD)
    #is_input = And (#not_before, #not_behind)
    #is_output = Less (#outputs, NEW)
    #is_real = And (#is_input, #is_output)
    #real_triangle = Where (#is_real, #triangle, none)
    #sums = ReduceSum <keepdims = 1> (#real_triangle, two)
    #safe_sums = Max (#sums, tiny)
    #weights = Div (#real_triangle, #safe_sums)
    #largest_weight = ReduceMax <keepdims = 0> (#weights)
    #room = Div (largest, #largest_weight)
    #log = Log (#room)
    #bits = Div (#log, log_base)
    #whole_bits = Floor (#bits)
    #precision = Min (#whole_bits, finest)
    #power = Pow (base, #precision)
    #scaled = Mul (#weights, #power)
    #raised = Add (#scaled, half)
    #integers = Floor (#raised)
    #quantised = Div (#integers, #power)
    #last = Sub (OLD, one)
    #not_negative = Max (#inputs, zero)
    #clipped = Min (#not_negative, #last)
    #places = Squeeze (#clipped, one)
    #taken = Gather <axis = 1> (LINES, #places)
    #real_taken = Cast <to = 1> (#taken)
    #averages = MatMul (FILTER, #real_taken)
    #padded_outputs = Mul (#blocks, block)
    #joined_shape = Concat <axis = 0> (batch_size, #padded_outputs, open)
    #joined = Reshape (#averages, #joined_shape)
    #kept = Slice (#joined, zero, NEW, one)
    #up = Add (#kept, half)
    #floor = Floor (#up)
    #resized = Clip (ROUNDED, none, most)"""
    names = {"REACHED": "#longer", "FILTER": "#quantised", "ROUNDED": "#floor"}
    names = names if smooth else {"REACHED": new, "FILTER": "#weights", "ROUNDED": "#kept"}
    for word, name in {**names, "#": f"{axis}_", "OLD": old, "NEW": new, "LINES": lines}.items():
        text = text.replace(word, name)
    return text


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
# DETR's rule, see `images.model_input.target_size`
_SHORTER_SIDE = f"""{_ROUNDED}
    wished = Mul (long, side)
    is_too_long = Greater (wished, product)
    shorter = Where (is_too_long, rounded, side)
    whole = Mul (shorter, long)
    longer = Div (whole, short)
    is_short = Equal (picture, short)
    turned = Where (is_short, shorter, longer)
    is_right = Equal (short, shorter)
    target = Where (is_right, picture, turned)"""

_WHOLE_MULTIPLE = """beyond = Mod (target, multiple)
    not_beyond = Sub (target, beyond)
    whole_target = Max (not_beyond, multiple)"""


def finish(classes: int, limit: int, suppress_iou: float | None) -> str:
    """Boxes in pixels of each picture, and the suppression of doubles in each category (`models.heads.suppress`).

    `fractions` are xyxy in [0, 1], `best` their scores, best first, `sizes` the (height, width) of each picture. Rows
    keep their places: a suppressed one gets the score SUPPRESSED. No Identity: OpenVINO 2025.2 does not compute it.
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
    labels = Cast <to = 7> (kinds)
    {"scores = Cast <to = 1> (best)" if suppress_iou is None else _SUPPRESS}
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
