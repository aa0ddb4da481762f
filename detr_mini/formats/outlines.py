"""Outlines of COCO annotations: moved with their boxes, cut at the edge of their image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from detr_mini.formats.columns import is_number

Points = Float[np.ndarray, "n 2"]


def polygons(segmentation: Any) -> list[Points] | None:
    """The polygons of an outline; None where it is a mask in run lengths, or no outline at all."""
    if not isinstance(segmentation, list) or not segmentation:
        return None
    found = []
    for flat in segmentation:
        if not isinstance(flat, list) or len(flat) < 6 or len(flat) % 2 or not all(is_number(v) for v in flat):
            return None
        found.append(np.array(flat, np.float64).reshape(-1, 2))
    return found


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
