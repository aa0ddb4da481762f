"""Which image and which box of a split a caption file means: names and coordinates may be written in other ways."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from detr_mini.formats.box_rules import clip_boxes, upright
from detr_mini.formats.path_words import parts_of, spelling
from detr_mini.formats.values import is_number

CLOSE = 0.5
"""Pixels by which a caption's box may differ from the same object's box among the instances."""


def composed(name: Any) -> str:
    """A file name with composed accents, so that names in records and on disk compare equal."""
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else ""


def places_of(names: Iterable[Any], images: Sequence[str]) -> dict[str, int]:
    """The place in `images` of the image that each name means, by `composed` name. A name without an image is left out.

    A name means the image that has it. If none has, the name or an image's name may be the end of the other's path
    (a.jpg and photos/a.jpg); it counts only where no other image and no other name fits.
    """
    wanted = {composed(name) for name in names} - {""}
    exact = {composed(image): place for place, image in enumerate(images)}
    found = {name: exact[name] for name in wanted if name in exact}
    if len(found) == len(wanted):
        return found
    whole, tails = defaultdict[str, set[int]](set), defaultdict[str, set[int]](set)
    for place, image in enumerate(images):
        own = _tails(image)
        whole[own[0]].add(place)
        for tail in own:
            tails[tail].add(place)
    near: dict[str, int] = {}
    for name in wanted - found.keys():
        own = _tails(name)
        fits = tails.get(own[0], set()).union(*(whole.get(tail, ()) for tail in own))
        if len(fits) == 1:
            (near[name],) = fits
    claims = Counter([*found.values(), *near.values()])
    return found | {name: place for name, place in near.items() if claims[place] == 1}


def _tails(path: str) -> list[str]:
    """A path and each of its ends, the longest first: a/b/c, b/c and c."""
    parts = parts_of(spelling(path)) or [""]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def is_near(one: Sequence[float | int], other: Sequence[float | int]) -> bool:
    """Whether two boxes are the same but for rounding."""
    return all(abs(a - b) <= CLOSE for a, b in zip(one, other, strict=True))


def size_of(image: Mapping[str, Any]) -> list[int] | None:
    """(height, width) of an image's record, None where it does not have them."""
    sides = [int(side) for side in (image.get("height"), image.get("width")) if is_number(side) and side >= 1]
    return sides if len(sides) == 2 else None


def as_trained(annotation: Mapping[str, Any], size: Sequence[int] | None) -> list[float]:
    """The box of an annotation as training reads it: upright, the part inside an image of `size` (height, width)."""
    box = upright(annotation)
    return box if size is None else clip_boxes(np.array([box]), np.array([size]))[0][0].tolist()
