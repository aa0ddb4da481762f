"""Outlines of COCO annotations: the box around each, moved with their boxes, cut at the edge of their image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

from detr_mini.formats.box_rules import MOST_PIXELS
from detr_mini.formats.values import is_number, is_whole

Points = Float[np.ndarray, "n 2"]


def polygons(segmentation: Any) -> list[Points] | None:
    """The polygons of an outline; None where it is a mask in run lengths, or no outline at all."""
    if not isinstance(segmentation, list) or not segmentation:
        return None
    found = []
    for flat in segmentation:
        if not _is_polygon(flat):
            return None
        found.append(np.array(flat, np.float64).reshape(-1, 2))
    return found


def _is_polygon(flat: Any) -> bool:
    """Whether it is [x, y, x, y, ...] of three points or more."""
    return isinstance(flat, list) and len(flat) >= 6 and len(flat) % 2 == 0 and all(map(is_number, flat))


def moved(segmentation: Any, move: Callable[[Points], Points]) -> list[list[float]] | None:
    """An outline whose points are moved; None where it is no list of polygons."""
    found = polygons(segmentation)
    return None if found is None else [move(points).reshape(-1).tolist() for points in found]


def cut(segmentation: Any, size: tuple[int, int]) -> list[list[float]] | None:
    """The part of an outline inside an image of (height, width); None where it is no list of polygons.

    Sutherland and Hodgman 1974: one edge of the image after the other. A polygon that falls apart stays one, joined
    along the edge, so its area is right.
    """
    found = polygons(segmentation)
    if found is None:
        return None
    kept = []
    for points in found:
        for axis, bound, sign in ((0, 0.0, 1), (0, float(size[1]), -1), (1, 0.0, 1), (1, float(size[0]), -1)):
            points = _half(points, axis, bound, sign)
        if len(points) >= 3:
            kept.append(points.reshape(-1).tolist())
    return kept


def _half(points: Points, axis: int, bound: float, sign: int) -> Points:
    """The part of a polygon on one side of a line: where sign * (coordinate - bound) is not negative."""
    side = sign * (points[:, axis] - bound)
    if (side >= 0).all():
        return points
    kept: list[np.ndarray] = []
    for k in range(len(points)):
        before, here = side[k - 1], side[k]
        if (before >= 0) != (here >= 0):
            cross = points[k - 1] + (points[k] - points[k - 1]) * (before / (before - here))
            cross[axis] = bound
            kept.append(cross)
        if here >= 0:
            kept.append(points[k])
    return np.array(kept, np.float64).reshape(-1, 2)


def moved_keypoints(keypoints: Any, move: Callable[[Points], Points]) -> Any:
    """COCO keypoints (x, y, visibility) whose labelled points are moved; anything else comes back as it is."""
    if not isinstance(keypoints, list) or len(keypoints) % 3 or not all(is_number(v) for v in keypoints):
        return keypoints
    rows = np.array(keypoints, np.float64).reshape(-1, 3)
    labelled = rows[:, 2] > 0
    rows[labelled, :2] = move(rows[labelled, :2])
    return [int(v) if k % 3 == 2 else v for k, v in enumerate(rows.reshape(-1).tolist())]


def box_of_outline(outline: Any) -> list[float] | None:
    """The xywh box around polygons [[x, y, x, y, ...], ...] or run lengths {counts, size}; None where it is neither."""
    if isinstance(outline, Mapping):
        return _box_of_runs(outline.get("counts"), outline.get("size"))
    if not isinstance(outline, list) or not outline:
        return None
    xs: list[float] = []
    ys: list[float] = []
    for polygon in [outline] if is_number(outline[0]) else outline:
        if not _is_polygon(polygon):
            return None
        xs += polygon[0::2]
        ys += polygon[1::2]
    return [float(v) for v in (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))]


def _box_of_runs(counts: Any, size: Any) -> list[float] | None:
    """COCO's run lengths: pixels of the background and of the object in turn, column by column."""
    if not isinstance(size, list) or len(size) != 2 or not all(is_whole(v) and 0 < v < MOST_PIXELS for v in size):
        return None
    height, width = size
    runs = _decoded(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(is_whole(v) and v >= 0 for v in runs) or sum(runs) > height * width:
        return None
    ends = list(accumulate(runs))
    found = [(begin, end) for begin, end in list(pairwise(ends))[::2] if end > begin]
    if not found:
        return None
    left, right = min(b for b, _ in found) // height, (max(e for _, e in found) - 1) // height
    if any(b // height != (e - 1) // height for b, e in found):
        top, bottom = 0, height - 1  # a run over the end of a column touches the top and the bottom
    else:
        top, bottom = min(b % height for b, _ in found), max((e - 1) % height for _, e in found)
    return [float(left), float(top), float(right - left + 1), float(bottom - top + 1)]


def _decoded(text: str) -> list[int] | None:
    """Run lengths from pycocotools' text: five bits a character, from the third number on as differences."""
    runs: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            if place == len(text) or not 48 <= ord(text[place]) < 112 or shift > 60:
                return None
            bits = ord(text[place]) - 48
            value |= (bits & 31) << shift
            more, place, shift = bool(bits & 32), place + 1, shift + 5
            if not more and bits & 16:
                value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
