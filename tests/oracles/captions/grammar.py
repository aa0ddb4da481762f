"""The language of captions as the oracle reads it: its words, and the trees that `parser` makes of sentences.

None of it comes from the templates that make captions, so that it can test them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from detr_mini.captions.templates.scene import COLORS, TEXTURES


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The nouns and adjectives of a set of captions; relations, numbers and their like are the same in all."""

    nouns: Mapping[str, tuple[str, str]]
    """Singular (one or more words) to its plural and the `shape` of an `Item` that it names; "" names any."""
    adjectives: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Word to the attribute of an `Item` ("color", "size", "texture") and its value."""
    features: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The same for words after "with": "stripes"."""


MADE = Vocabulary(
    {
        "circle": ("circles", "circle"), "disc": ("discs", "circle"),
        "square": ("squares", "square"), "box": ("boxes", "square"),
        "triangle": ("triangles", "triangle"), "wedge": ("wedges", "triangle"),
        "star": ("stars", "star"), "cross": ("crosses", "cross"), "plus": ("pluses", "cross"),
        "heart": ("hearts", "heart"),
        "thing": ("things", ""), "object": ("objects", ""), "shape": ("shapes", ""),
    },
    {color: ("color", color) for color in COLORS}
    | {"turquoise": ("color", "cyan"), "violet": ("color", "purple")}
    | dict.fromkeys(("small", "little", "tiny"), ("size", "small"))
    | dict.fromkeys(("large", "big", "huge"), ("size", "large"))
    | {texture: ("texture", texture) for texture in TEXTURES}
    | {"uniform": ("texture", "plain"), "stripy": ("texture", "striped"), "spotted": ("texture", "dotted")},
    {"stripes": ("texture", "striped"), "dots": ("texture", "dotted"), "spots": ("texture", "dotted")},
)  # fmt: skip
"""The words of made scenes."""


@dataclass(frozen=True)
class Beside:
    """Left of, right of, above or below an anchor."""

    side: str
    anchors: tuple[NounPhrase]


@dataclass(frozen=True)
class Nearest:
    """Nearest to an anchor."""

    anchors: tuple[NounPhrase]


@dataclass(frozen=True)
class Between:
    """Between two anchors."""

    anchors: tuple[NounPhrase, NounPhrase]


@dataclass(frozen=True)
class Sized:
    """Larger (or smaller) than an anchor."""

    larger: bool
    anchors: tuple[NounPhrase]


@dataclass(frozen=True)
class Same:
    """Of the same colour, size, shape or texture as an anchor."""

    attribute: str
    anchors: tuple[NounPhrase]


@dataclass(frozen=True)
class Most:
    """The largest (or smallest)."""

    larger: bool
    anchors: tuple[()] = ()


@dataclass(frozen=True)
class Nth:
    """The first, second, ... counted from a side."""

    number: int
    side: str
    anchors: tuple[()] = ()


Restriction: TypeAlias = "Beside | Nearest | Between | Sized | Same | Most | Nth"


@dataclass(frozen=True)
class NounPhrase:
    """A description with its number, and the restrictions on the objects that it names."""

    shape: str
    wanted: tuple[tuple[str, str], ...]
    """(attribute, value) that the objects have."""
    unwanted: tuple[tuple[str, str], ...]
    """(attribute, value) that the objects do not have."""
    words: tuple[tuple[int, int], ...]
    """[begin, end) characters of each word of the description, without negated words."""
    plural: bool
    number: int | None
    """From a number word ("three"); None where only singular or plural tells."""
    restrictions: tuple[Restriction, ...] = ()


def _set(*words: str) -> dict[str, bool]:
    return dict.fromkeys(words, True)


LEADS = _set(
    "find", "show", "show me", "point at", "point to", "where is", "where are", "look", "look for", "please", "i want",
    "i am looking for", "mark", "can you see", "can you find", "could you find", "could you see", "locate", "detect",
)  # fmt: skip
"""Words before a description that mean nothing."""
CARDINALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NUMBERS = {word: n for n, word in enumerate(CARDINALS, start=1)} | {str(n): n for n in range(1, 1000)}
ORDINALS = {word: n for n, word in enumerate(("first", "second", "third", "fourth", "fifth", "sixth"), start=1)}
ARTICLES: dict[str, frozenset[bool]] = {
    **dict.fromkeys(("the", "exactly", "the exactly"), frozenset({False, True})),
    **dict.fromkeys(("a", "an"), frozenset({False})),
    **dict.fromkeys(("all", "all the"), frozenset({True})),
}
"""What may follow: a singular (False), a plural (True), or both."""
BESIDE = {
    f"{before}{side}{after}": side
    for side in ("left", "right")
    for before in ("", "to the ", "on the ", "at the ")
    for after in (" of", " from", " side of")
} | {
    **dict.fromkeys(("above", "over", "higher than", "further up than", "farther up than"), "above"),
    **dict.fromkeys(("below", "under", "beneath", "underneath", "lower than", "further down than"), "below"),
}  # fmt: skip
NEAREST = _set("nearest", "nearest to", "closest", "closest to")
BETWEEN = _set("between", "in between", "in the middle of")
SIZED = {"larger than": True, "bigger than": True, "smaller than": False}
MOST = {"largest": True, "biggest": True, "smallest": False}
SAME = _set(*(f"{before} the same" for before in ("of", "with", "in", "has", "have")))
ATTRIBUTES = {
    "colour": "color", "color": "color", "size": "size", "shape": "shape", "texture": "texture", "pattern": "texture",
}  # fmt: skip
EDGES = {"left": "left", "right": "right", "top": "above", "bottom": "below"}
FROM = {f"{before}from the {word}": side for before in ("", "counting ", "counted ") for word, side in EDGES.items()}
FARTHEST = {f"{far} to the {word}": side for far in ("farthest", "furthest") for word, side in EDGES.items()}
FOREMOST = {
    "leftmost": "left", "rightmost": "right", "topmost": "above", "highest": "above", "bottommost": "below",
    "lowest": "below",
}  # fmt: skip
VERBS = _set("is", "are", "lies", "lie", "sits", "sit")
NOT = _set("is not", "are not", "isn't", "aren't")
THAT = _set("that", "which", ", that", ", which")
AND = _set("and", ",", ", and")
END = _set(".", "?", "!", "please", ", please")
ONES = {"one": ("", frozenset({False})), "ones": ("", frozenset({True}))}
"""Words that replace a noun after an adjective: the shape, and whether it is a plural."""
