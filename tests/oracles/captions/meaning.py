"""The meaning of a sentence's trees (`grammar`) in an image: the objects that each description names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import hypot, sqrt

from detr_mini.captions.templates.scene import (
    BESIDE_WIDTH,
    BETWEEN_SHARE,
    BETWEEN_WIDTH,
    CLEAR_DISTANCE,
    CLEAR_OFFSET,
    CLEAR_RATIO,
    Item,
)
from oracles.captions.grammar import (
    Beside,
    Between,
    Most,
    Nearest,
    NounPhrase,
    Nth,
    Restriction,
    Same,
    Sized,
)

ROUNDING = 1e-6
"""Tolerance of thresholds, in pixels (for ratios: absolute)."""


@dataclass(frozen=True)
class Reading:
    """A description, and the objects that it names."""

    phrase: NounPhrase
    asked: bool
    fitting: frozenset[int]
    """Indices of the objects with its attributes."""
    held: frozenset[int]
    """Those of them with its relations."""

    @property
    def things(self) -> frozenset[int]:
        """The objects that it names: `held` if their number is right, else none."""
        count, phrase = len(self.held), self.phrase
        right = count == phrase.number if phrase.number else count > 1 if phrase.plural else count == 1
        return self.held if right else frozenset()


class Scene:
    """Evaluates sentences about the objects of an image. `doubts` collects what the image does not decide."""

    def __init__(self, items: Sequence[Item], side: float | int) -> None:
        self.items, self.margin = items, side * CLEAR_OFFSET - ROUNDING
        self.centers = [(x + w / 2, y + h / 2) for x, y, w, h in (item.box for item in items)]
        self.lengths = [sqrt(item.box[2] * item.box[3]) for item in items]
        self.readings: list[Reading] = []
        self.doubts: list[str] = []

    def read(self, phrase: NounPhrase, asked: bool) -> Reading:
        """The meaning of a phrase. It and those of its anchors are added to `readings`."""
        fitting = frozenset(place for place, item in enumerate(self.items) if fits(item, phrase))
        held = fitting
        for restriction in phrase.restrictions:
            held &= self.restricted(fitting, restriction)
        reading = Reading(phrase, asked, fitting, held)
        self.readings.append(reading)
        return reading

    def restricted(self, candidates: frozenset[int], restriction: Restriction) -> frozenset[int]:
        """The candidates with a relation; none if an anchor names nothing."""
        named = [self.read(anchor, asked=False) for anchor in restriction.anchors]
        for anchor in named:
            if len(anchor.held) > 1:
                self.doubts.append(f"an anchor is to be one thing, and {places(anchor.held)} fit it")
        if any(len(anchor.held) != 1 for anchor in named):
            return frozenset()
        anchors = [next(iter(anchor.held)) for anchor in named]
        others = sorted(candidates - set(anchors))
        match restriction:
            case Beside(side=side):
                return self.beside(others, side, *anchors)
            case Nearest():
                return self.nearest(others, *anchors)
            case Between():
                return self.between(others, *anchors)
            case Sized(larger=larger):
                return self.sized(others, larger, *anchors)
            case Most(larger=larger):
                return self.most(others, larger)
            case Nth(number=number, side=side):
                return self.nth(others, number, side)
            case Same(attribute=attribute):
                return self.same(others, attribute, *anchors)

    def beside(self, candidates: list[int], side: str, anchor: int) -> frozenset[int]:
        def offset(place: int) -> float:
            return self.along(place, side) - self.along(anchor, side)

        unclear = [place for place in candidates if abs(offset(place)) < self.margin]
        self.doubt(unclear, f"{side} of thing {anchor}" if side in ("left", "right") else f"{side} thing {anchor}")
        return frozenset(place for place in candidates if offset(place) <= -self.margin)

    def along(self, place: int, side: str) -> float:
        """The centre's coordinate from the image's `side` ("above": its upper edge) to the opposite one."""
        x, y = self.centers[place]
        return {"left": x, "right": -x, "above": y, "below": -y}[side]

    def nearest(self, candidates: list[int], anchor: int) -> frozenset[int]:
        x, y = self.centers[anchor]
        ranked = sorted((hypot(self.centers[c][0] - x, self.centers[c][1] - y), c) for c in candidates)
        if len(ranked) > 1:
            (near, first), (far, second) = ranked[:2]
            if far < max(near + self.margin, near * CLEAR_DISTANCE - ROUNDING):
                self.doubts.append(f"{places((first, second))} are about as near to thing {anchor}")
        return frozenset(place for _, place in ranked[:1])

    def between(self, candidates: list[int], first: int, second: int) -> frozenset[int]:
        (x, y), (x2, y2) = self.centers[first], self.centers[second]
        dx, dy = x2 - x, y2 - y
        square = dx * dx + dy * dy
        if not square:
            self.doubts.append(f"nothing lies between thing {first} and thing {second}, which are at one place")
            return frozenset()
        true, unclear = set[int](), set[int]()
        for place in candidates:
            ax, ay = self.centers[place][0] - x, self.centers[place][1] - y
            share, width = (ax * dx + ay * dy) / square, abs(ax * dy - ay * dx) / square
            if BETWEEN_SHARE - ROUNDING <= share <= 1 - BETWEEN_SHARE + ROUNDING and width <= BETWEEN_WIDTH + ROUNDING:
                true.add(place)
            elif 0 <= share <= 1 and width <= BESIDE_WIDTH - ROUNDING:
                unclear.add(place)
        self.doubt(unclear, f"between thing {first} and thing {second}")
        return frozenset(true)

    def sized(self, candidates: list[int], larger: bool, anchor: int) -> frozenset[int]:
        def beats(one: int, other: int) -> bool:
            return self.lengths[one] >= (CLEAR_RATIO - ROUNDING) * self.lengths[other]

        word = "larger" if larger else "smaller"
        unclear = [place for place in candidates if not beats(place, anchor) and not beats(anchor, place)]
        self.doubt(unclear, f"{word} than thing {anchor}")
        return frozenset(place for place in candidates if beats(*((place, anchor) if larger else (anchor, place))))

    def most(self, candidates: list[int], larger: bool) -> frozenset[int]:
        if len(candidates) < 2:
            self.doubts.append(f"a superlative needs several things, and {places(candidates)} fit")
            return frozenset(candidates)
        first, second = sorted(candidates, key=lambda place: self.lengths[place] * (-1 if larger else 1))[:2]
        small, large = sorted((self.lengths[first], self.lengths[second]))
        if large < (CLEAR_RATIO - ROUNDING) * small:
            self.doubts.append(f"{places((first, second))} are about as {'large' if larger else 'small'}")
        return frozenset({first})

    def nth(self, candidates: list[int], number: int, side: str) -> frozenset[int]:
        ranked = sorted(candidates, key=lambda place: self.along(place, side))
        for one, other in pairwise(ranked):
            if self.along(other, side) - self.along(one, side) < self.margin:
                self.doubts.append(f"{places((one, other))} are about as far to the {side}")
        return frozenset(ranked[number - 1 : number])

    def same(self, candidates: list[int], attribute: str, anchor: int) -> frozenset[int]:
        value = getattr(self.items[anchor], attribute)
        if not value:
            self.doubts.append(f"the {attribute} of thing {anchor} is not known")
        return frozenset(place for place in candidates if getattr(self.items[place], attribute) == value)

    def doubt(self, unclear: Collection[int], what: str) -> None:
        if unclear:
            self.doubts.append(f"the picture does not decide whether {places(unclear)} may be called {what}")


def fits(item: Item, phrase: NounPhrase) -> bool:
    """Whether an object has the attributes of a description."""
    return (
        phrase.shape in ("", item.shape)
        and all(getattr(item, attribute) == value for attribute, value in phrase.wanted)
        and not any(getattr(item, attribute) == value for attribute, value in phrase.unwanted)
    )


def places(things: Collection[int]) -> str:
    """Indices of objects, for a message."""
    numbers = ", ".join(str(place) for place in sorted(things)) or "none"
    return f"thing{'s' if len(things) != 1 else ''} {numbers}"
