"""Relations between the objects of a scene, as bit sets: bit i of an integer stands for object i.

Combining a description and a relation takes a few `&`, so a caption is tried in microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from detr_mini.captions.templates.scene import (
    BESIDE_WIDTH,
    BETWEEN_SHARE,
    BETWEEN_WIDTH,
    CLEAR_DISTANCE,
    CLEAR_OFFSET,
    CLEAR_RATIO,
    Item,
)

ATTRIBUTES = ("shape", "color", "size", "texture")
SIDES = ("left", "right", "above", "below")


def members(objects: int) -> tuple[int, ...]:
    """The objects of a set, in order."""
    found = []
    while objects:
        found.append((objects & -objects).bit_length() - 1)
        objects &= objects - 1
    return tuple(found)


class Relations:
    """The sets of a scene. A relation is None where it is unclear for a candidate (the thresholds are in `scene`)."""

    def __init__(self, items: Sequence[Item], canvas: float | int) -> None:
        """`canvas`: its side in pixels."""
        self.items, self.margin = items, CLEAR_OFFSET * canvas
        self.everything = (1 << len(items)) - 1
        self.centres = [(x + w / 2, y + h / 2) for x, y, w, h in (item.box for item in items)]
        self.lengths = [math.sqrt(item.box[2] * item.box[3]) for item in items]
        self._having: dict[tuple[str, str], int] = {}
        for index, item in enumerate(items):
            for attribute in ATTRIBUTES:
                key = attribute, getattr(item, attribute)
                self._having[key] = self._having.get(key, 0) | 1 << index

    def having(self, attribute: str, value: str) -> int:
        """Objects whose `attribute` is `value`."""
        return self._having.get((attribute, value), 0)

    def fitting(self, wanted: Mapping[str, str]) -> int:
        """Objects that have all the `wanted` attributes."""
        found = self.everything
        for attribute, value in wanted.items():
            found &= self._having.get((attribute, value), 0)
        return found

    def beside(self, side: str, anchor: int, candidates: int) -> int | None:
        """Candidates to the left or right of, above or below the anchor."""
        axis, sign = SIDES.index(side) // 2, -1 if side in ("left", "above") else 1
        start, found = self.centres[anchor][axis], 0
        for place in members(candidates & ~(1 << anchor)):
            offset = sign * (self.centres[place][axis] - start)
            if abs(offset) < self.margin:
                return None
            if offset > 0:
                found |= 1 << place
        return found

    def nearest(self, anchor: int, candidates: int) -> int | None:
        """The candidate nearest to the anchor."""
        others = members(candidates & ~(1 << anchor))
        ranked = sorted((math.dist(self.centres[place], self.centres[anchor]), place) for place in others)
        if len(ranked) > 1 and ranked[1][0] < max(ranked[0][0] * CLEAR_DISTANCE, ranked[0][0] + self.margin):
            return None
        return 1 << ranked[0][1] if ranked else 0

    def between(self, one: int, other: int, candidates: int) -> int | None:
        """Candidates near the line that joins the two anchors."""
        (ax, ay), (bx, by) = self.centres[one], self.centres[other]
        dx, dy = bx - ax, by - ay
        squared, found = dx * dx + dy * dy, 0
        if squared < (4 * self.margin) ** 2:
            return None
        for place in members(candidates & ~(1 << one) & ~(1 << other)):
            x, y = self.centres[place][0] - ax, self.centres[place][1] - ay
            share, apart = (x * dx + y * dy) / squared, abs(x * dy - y * dx) / squared
            if BETWEEN_SHARE <= share <= 1 - BETWEEN_SHARE and apart <= BETWEEN_WIDTH:
                found |= 1 << place
            elif 0 <= share <= 1 and apart <= BESIDE_WIDTH:
                return None
        return found

    def ranked(self, side: str, candidates: int) -> list[int] | None:
        """The candidates in order from that side of the image."""
        axis, sign = SIDES.index(side) // 2, 1 if side in ("left", "above") else -1
        order = sorted((sign * self.centres[place][axis], place) for place in members(candidates))
        if any(b[0] - a[0] < self.margin for a, b in pairwise(order)):
            return None
        return [place for _, place in order]

    def larger(self, anchor: int, candidates: int, smaller: bool = False) -> int | None:
        """Candidates whose box is larger (or smaller) than the anchor's."""
        found = 0
        for place in members(candidates & ~(1 << anchor)):
            ratio = self.lengths[place] / self.lengths[anchor]
            if 1 / CLEAR_RATIO < ratio < CLEAR_RATIO:
                return None
            if (ratio < 1) == smaller:
                found |= 1 << place
        return found

    def largest(self, candidates: int, smallest: bool = False) -> int | None:
        """The candidate with the largest (or smallest) box. None for fewer than two candidates."""
        order = sorted(members(candidates), key=lambda place: self.lengths[place], reverse=not smallest)
        if len(order) < 2:
            return None
        ratio = self.lengths[order[0]] / self.lengths[order[1]]
        return 1 << order[0] if max(ratio, 1 / ratio) >= CLEAR_RATIO else None

    def same(self, attribute: str, anchor: int, candidates: int) -> int:
        """Candidates that share an attribute's value with the anchor."""
        return candidates & ~(1 << anchor) & self.having(attribute, getattr(self.items[anchor], attribute))
