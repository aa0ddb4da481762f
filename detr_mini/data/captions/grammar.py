"""The language of made captions: its words, and a parser of its sentences into small trees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from detr_mini.data.captions.records import COLORS


@dataclass(frozen=True)
class Vocabulary:
    """The nouns and adjectives of a set of captions; relations, numbers and their like are the same in all."""

    nouns: Mapping[str, tuple[str, str]]
    """Singular, of one or more words, to plural and the `shape` of an `Item` that it means; "" means any."""
    adjectives: Mapping[str, tuple[str, str]]
    """Word to the attribute of an `Item` ("color", "size", "texture") and its value."""


MADE = Vocabulary(
    {
        "circle": ("circles", "circle"), "disc": ("discs", "circle"),
        "square": ("squares", "square"), "box": ("boxes", "square"),
        "triangle": ("triangles", "triangle"), "wedge": ("wedges", "triangle"),
        "star": ("stars", "star"), "cross": ("crosses", "cross"), "plus": ("pluses", "cross"),
        "heart": ("hearts", "heart"),
        "thing": ("things", ""), "object": ("objects", ""), "shape": ("shapes", ""), "one": ("ones", ""),
    },
    {color: ("color", color) for color in COLORS}
    | {"turquoise": ("color", "cyan"), "violet": ("color", "purple")}
    | {word: ("size", "small") for word in ("small", "little", "tiny")}
    | {word: ("size", "large") for word in ("large", "big", "huge")}
    | {"plain": ("texture", "plain"), "uniform": ("texture", "plain")}
    | {"striped": ("texture", "striped"), "stripy": ("texture", "striped")}
    | {"dotted": ("texture", "dotted"), "spotted": ("texture", "dotted")},
)  # fmt: skip
"""Of made scenes."""
