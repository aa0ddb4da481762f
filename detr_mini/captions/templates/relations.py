"""What holds between the things of a scene, as sets of them: bit i of a number stands for thing i.

So a description, a relation and their meeting are a few `&`, and a sentence is tried in microseconds.
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


def members(things: int) -> tuple[int, ...]:
    """The things of a set, in order."""
    found = []
    while things:
        found.append((things & -things).bit_length() - 1)
        things &= things - 1
    return tuple(found)


class Facts:
    """A scene's sets. Every relation answers None where a candidate is a matter of opinion: see `records`."""

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
        """Those whose `attribute` is `value`."""
        return self._having.get((attribute, value), 0)

    def fitting(self, wanted: Mapping[str, str]) -> int:
        """Those that have all of the `wanted` attributes."""
        found = self.everything
        for attribute, value in wanted.items():
            found &= self._having.get((attribute, value), 0)
        return found

    def beside(self, side: str, anchor: int, candidates: int) -> int | None:
        """Candidates to the left or right of, above or below the anchor."""
        axis, sign = SIDES.index(side) // 2, -1 if side in ("left", "above") else 1
        start, found = self.centres[anchor][axis], 0
        for thing in members(candidates & ~(1 << anchor)):
            offset = sign * (self.centres[thing][axis] - start)
            if abs(offset) < self.margin:
                return None
            if offset > 0:
                found |= 1 << thing
        return found

    def nearest(self, anchor: int, candidates: int) -> int | None:
        """The one nearest to the anchor."""
        others = members(candidates & ~(1 << anchor))
        ranked = sorted((math.dist(self.centres[thing], self.centres[anchor]), thing) for thing in others)
        if len(ranked) > 1 and ranked[1][0] < max(ranked[0][0] * CLEAR_DISTANCE, ranked[0][0] + self.margin):
            return None
        return 1 << ranked[0][1] if ranked else 0

    def between(self, one: int, other: int, candidates: int) -> int | None:
        """Those near the line that joins the two anchors."""
        (ax, ay), (bx, by) = self.centres[one], self.centres[other]
        dx, dy = bx - ax, by - ay
        squared, found = dx * dx + dy * dy, 0
        if squared < (4 * self.margin) ** 2:
            return None
        for thing in members(candidates & ~(1 << one) & ~(1 << other)):
            x, y = self.centres[thing][0] - ax, self.centres[thing][1] - ay
            share, apart = (x * dx + y * dy) / squared, abs(x * dy - y * dx) / squared
            if BETWEEN_SHARE <= share <= 1 - BETWEEN_SHARE and apart <= BETWEEN_WIDTH:
                found |= 1 << thing
            elif 0 <= share <= 1 and apart <= BESIDE_WIDTH:
                return None
        return found

    def ranked(self, side: str, candidates: int) -> list[int] | None:
        """The candidates in order from that side of the picture."""
        axis, sign = SIDES.index(side) // 2, 1 if side in ("left", "above") else -1
        order = sorted((sign * self.centres[thing][axis], thing) for thing in members(candidates))
        if any(b[0] - a[0] < self.margin for a, b in pairwise(order)):
            return None
        return [thing for _, thing in order]

    def larger(self, anchor: int, candidates: int, smaller: bool = False) -> int | None:
        """Those whose box is larger (or smaller) than the anchor's."""
        found = 0
        for thing in members(candidates & ~(1 << anchor)):
            ratio = self.lengths[thing] / self.lengths[anchor]
            if 1 / CLEAR_RATIO < ratio < CLEAR_RATIO:
                return None
            if (ratio < 1) == smaller:
                found |= 1 << thing
        return found

    def largest(self, candidates: int, smallest: bool = False) -> int | None:
        """The one with the largest (or smallest) box, of two candidates at least."""
        order = sorted(members(candidates), key=lambda thing: self.lengths[thing], reverse=not smallest)
        if len(order) < 2:
            return None
        ratio = self.lengths[order[0]] / self.lengths[order[1]]
        return 1 << order[0] if max(ratio, 1 / ratio) >= CLEAR_RATIO else None

    def same(self, attribute: str, anchor: int, candidates: int) -> int:
        """Those that share an attribute's value with the anchor."""
        return candidates & ~(1 << anchor) & self.having(attribute, getattr(self.items[anchor], attribute))
