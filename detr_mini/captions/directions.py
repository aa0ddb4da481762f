"""Whether a transform can make a caption false: where it moves points, and which captions name sides."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.data.augment import Augment
from detr_mini.structures import Target

SIDEWAYS = (
    r"left\w*|right\w*|(counter|anti)?-?clockwise|links|rechts|gauche|droite|izquierd\w+|derech\w+|sinistr\w+|"
    r"destr\w+|esquerd\w+|direit\w+"
)
UPRIGHT = (
    r"above|below|top\w*|bottom\w*|upper\w*|lower\w*|under\w*|over|beneath|high(er|est)|lowest|upside|"
    r"up|down|(up|down)ward\w*|(counter|anti)?-?clockwise|oben|unten|über|unter|haut|bas|dessus|dessous|arriba|abajo|encima|debajo"
)
WORDS = {"x": re.compile(rf"\b({SIDEWAYS})\b|[左右]", re.I), "y": re.compile(rf"\b({UPRIGHT})\b|[上下]", re.I)}
"""Words that mirroring makes false, by axis."""
SIDES = (256, 1024)
"""Sides of the test images in pixels. A transform that crops more than the first needs the second."""
MARK = 0.04
"""Side of a mark as a share of the image's."""
TRIES = 24


def axes_of(text: str) -> frozenset[str]:
    """The axes that a caption names: "x" for left and right, "y" for above and below."""
    return frozenset(axis for axis, words in WORDS.items() if words.search(text))


def axes_moved(transform: Any) -> frozenset[str]:
    """The axes along which a transform may change the order of two points."""
    moved = set()
    for centres in _marks_after(transform):
        corners = {label: centre for label, centre in centres.items() if label < 4}  # of the corners: 0 1 above 2 3
        for axis, pairs in (("x", ((0, 1), (2, 3))), ("y", ((0, 2), (1, 3)))):
            for first, second in pairs:
                if first in corners and second in corners:
                    step = corners[second] - corners[first]
                    along, across = (step[0], step[1]) if axis == "x" else (step[1], step[0])
                    if float(along) <= abs(float(across)):
                        moved.add(axis)
    return frozenset(moved)


def cuts(transform: Any) -> bool:
    """Whether a transform may leave a marked point outside the image."""
    return any(len(centres) < 4 for centres in _marks_after(transform))


class SteadyAugment:
    """An augmentation without the transforms that change the order of points along some axes."""

    def __init__(self, augment: Augment) -> None:
        self.augment = augment
        self._moved: list[list[frozenset[str]]] | None = None
        """The axes of each strong and of each other transform: tried once, since it takes many tries."""
        self._made: dict[frozenset[str], Augment] = {frozenset(): augment}

    def along(self, axes: frozenset[str]) -> Augment:
        """Without what moves points along one of `axes`."""
        if axes not in self._made:
            both = self.augment.strong, self.augment.transforms
            self._moved = self._moved or [[axes_moved(t) for t in own] for own in both]
            strong, plain = (
                [t for t, moved in zip(own, known, strict=True) if not axes & moved]
                for own, known in zip(both, self._moved, strict=True)
            )
            self._made[axes] = Augment(plain, self.augment.seed, strong)
        return self._made[axes]


def _marks_after(transform: Any) -> Iterator[dict[int, torch.Tensor]]:
    """The centres of the marks in the four corners after the transform, many times, without marks cut off."""
    half = MARK / 2
    centres = [[half, half], [1 - half, half], [half, 1 - half], [1 - half, 1 - half]]
    boxes = torch.tensor([[*centre, MARK, MARK] for centre in centres])
    for tried in _certain(transform):
        for side in SIDES:
            image = torch.randint(256, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
            try:
                for seed in range(TRIES):
                    target = Target(boxes, torch.arange(4), seed, (side, side), torch.zeros(4).bool(), torch.ones(4))
                    picture, after, _ = Augment([tried], seed)(image, target, 0)
                    scale = torch.tensor([picture.shape[2], picture.shape[1]] * 2)
                    middles = (cxcywh_to_xyxy(after.boxes) * scale).unflatten(1, (2, 2)).mean(1)
                    yield dict(zip(after.labels.tolist(), middles, strict=True))
                break
            except (ValueError, RuntimeError):  # needs a larger image; training reports other errors
                continue


def _certain(transform: Any) -> Iterator[Any]:
    """The transform, and each random part of it with probability 1."""
    yield transform
    if isinstance(getattr(transform, "p", None), int | float):
        certain = copy.copy(transform)
        certain.p = 1.0
        yield certain
    parts = getattr(transform, "transforms", ())
    for part in parts if isinstance(parts, list | tuple | torch.nn.ModuleList) else ():
        yield from _certain(part)
