"""Makes captions about images from boxes and category names alone: number, place, order, size, absence.

If some objects of a category have no box, few captions about that category are certain: see `generator.decided`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detr_mini.captions.nouns import check_categories
from detr_mini.captions.templates.generator import Captioner, weights_of
from detr_mini.captions.templates.lexicon import Lexicon
from detr_mini.captions.templates.scene import Item
from detr_mini.errors import ConfigError, nearest
from detr_mini.phrases import Caption

WEIGHTS: dict[str, float] = {
    "attribute": 1.0, "count": 1.0, "relation": 2.0, "chain": 1.5, "order": 1.0, "ordinal": 1.0, "compare": 1.0,
    "absent": 1.5,
}  # fmt: skip
"""The kinds that boxes decide, and how often training draws each."""


@dataclass(frozen=True)
class Words:
    """The nouns of a dataset's categories, and the categories whose objects all have a box."""

    lexicon: Lexicon
    complete: frozenset[str]


def words_for(categories: Sequence[str], names: Any, complete: Any) -> Words:
    """The words of a config. `names`: category to its noun or synonyms in the singular, "leaf/leaves" with an irregular
    plural; a category without a name is called as in the data. `complete`: categories, or "all".

    ConfigError for other values, an unknown category, a name that is no noun, nouns that a reader cannot tell apart.
    """
    whole = categories if complete == "all" else complete
    if isinstance(whole, str | Mapping) or not isinstance(whole, Collection):
        raise ConfigError(f"complete is {complete!r}; name the categories whose objects all have a box, as in "
                          f"complete=[{categories[0]}], or set complete=all")  # fmt: skip
    if not isinstance(names, Mapping | None):
        raise ConfigError(f"names is {names!r}; give each category its noun, as in names={{{categories[0]}: red cell}}")
    check_categories("names", names or (), categories)
    check_categories("complete", whole, categories)
    synonyms: dict[str, tuple[str, ...]] = {}
    plurals: dict[str, str] = {}
    for category in categories:
        given = (names or {}).get(category, category.replace("_", " "))
        nouns = []
        for entry in given if isinstance(given, list | tuple) else [given]:
            text = str(entry) if isinstance(entry, str | int) and not isinstance(entry, bool) else ""
            noun, slash, several = (part.strip().lower() for part in text.partition("/"))
            if not re.fullmatch(r"\w[\w'-]*( \w[\w'-]*)*", noun) or (slash and not several):
                raise ConfigError(f"names.{category} is {entry!r}; give a noun of letters and blanks, as in "
                                  "'red cell', or 'leaf/leaves' with its plural")  # fmt: skip
            nouns.append(noun)
            if several:
                plurals[noun] = several
        if not nouns:
            raise ConfigError(f"names.{category} is empty; give a noun, or leave it out")
        synonyms[category] = tuple(nouns)
    lexicon = Lexicon({"shape": tuple(categories)}, {"shape": 1.0}, synonyms, plurals)
    if fault := lexicon.ambiguity():
        raise ConfigError(f"{fault}; give each category nouns of its own in names")
    return Words(lexicon, frozenset(whole))


def checked_kinds(kinds: Mapping[str, Any] | None) -> dict[str, float | int]:
    """`WEIGHTS` updated from a config. ConfigError for a kind that boxes do not decide, and see `weights_of`."""
    for kind in kinds or ():
        if kind not in WEIGHTS:
            raise ConfigError(f"kinds.{kind} is no kind that boxes decide{nearest(kind, WEIGHTS)} "
                              f"(they decide {', '.join(WEIGHTS)})")  # fmt: skip
    return weights_of(kinds, WEIGHTS)


Box = Sequence[float | int]


def items_from(names: Sequence[str], boxes_xywh: Sequence[Box]) -> list[Item]:
    """Items with a category and a box (pixels), without other attributes."""
    return [Item(name, "", "", "", (b[0], b[1], b[2], b[3])) for name, b in zip(names, boxes_xywh, strict=True)]


def _builder(
    items: Sequence[Item], side: float | int, rng: random.Random, words: Words, crowded: frozenset[str], **how: Any
) -> Captioner:
    complete = words.complete - crowded
    return Captioner(items, side, rng, lexicon=words.lexicon, complete=complete, hidden=crowded, **how)


def captions_about(
    items: Sequence[Item],
    side: float | int,
    rng: random.Random,
    words: Words,
    count: int,
    *,
    crowded: frozenset[str] = frozenset(),
    weights: Mapping[str, float | int] = WEIGHTS,
    longest_chain: int = 3,
    fits: Callable[[str], bool] | None = None,
) -> list[Caption]:
    """`count` captions of random kinds for training; fewer where the image allows no more.

    `side`: the shorter side of the image in pixels; clear distances are shares of it. `crowded`: categories with a
    crowd region, which captions never name. `fits`: whether a text is short enough.
    """
    builder = _builder(items, side, rng, words, crowded, longest_chain=longest_chain, fits=fits)
    made: dict[str, Caption] = {}
    for _ in range(4 * count):
        kind = rng.choices(list(weights), list(weights.values()))[0]
        made |= {caption.text: caption for caption in (builder.make(kind) if builder.groups else ())}
        if len(made) >= count:
            break
    return list(made.values())[:count]


def captions_to_measure(
    items: Sequence[Item],
    side: float | int,
    rng: random.Random,
    words: Words,
    each: int,
    *,
    crowded: frozenset[str] = frozenset(),
    weights: Mapping[str, float | int] = WEIGHTS,
) -> list[Caption]:
    """Up to `each` captions (pairs of `order`) of every kind with a weight, all different. See `captions_about`."""
    builder = _builder(items, side, rng, words, crowded)
    made: dict[str, Caption] = {}
    for kind, weight in weights.items():
        asked = 0
        for _ in range(3 * each if weight and builder.groups else 0):
            new = [caption for caption in builder.make(kind) if caption.text not in made]
            if new and asked < each:
                made |= {caption.text: caption for caption in new}
                asked += 1
    return list(made.values())
