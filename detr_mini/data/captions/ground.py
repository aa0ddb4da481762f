"""Captions that people wrote tied to boxes that people drew: each noun of a category to the boxes of that category.

Nothing is guessed. Where a noun could mean some of the boxes only, it is left out, with its reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detr_mini.data.captions.nouns import HEADS, OPEN, Noun, Nouns
from detr_mini.structures import Caption, Phrase

KIND = "photograph"
"""Of a caption that was written about a photograph."""
SEVERAL = "one is named, several are labelled"
SINGLE = "several are named, one is labelled"
NUMBER = "another number is named than is labelled"
SOME = "a kind of the category is named, which others may not be"
TWO = "the word fits two categories"
AGAIN = "the caption names the category more than once"
CROWD = "a crowd region of the category"
NOTHING = "nothing of the category is labelled"
PART = "the word only describes the next one"
DENIED = "the caption says that there is none"
REASONS = (SEVERAL, SINGLE, NUMBER, SOME, TWO, AGAIN, CROWD, NOTHING, PART, DENIED)
"""Why a noun is left out."""

NUMBERS = {"a": 1, "an": 1} | {
    word: n for n, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=1
    )
}  # fmt: skip
_BEFORE = 3
"""So many words before a noun may lie between it and its number."""
_BREAKS = frozenset("and or of with in on at by near to from next beside behind under over".split())


@dataclass(frozen=True)
class Mention:
    """A noun in a caption."""

    begin: int
    end: int
    noun: Noun
    number: int | None
    """Said before it, where a number or an article is."""
    part: bool = False
    """It only says what sort of thing the next word is."""
    denied: bool = False

    @property
    def one(self) -> bool:
        """Whether it means one."""
        return self.number == 1 if self.noun.one and self.noun.many and self.number else self.noun.one

    @property
    def either(self) -> bool:
        """Whether it may mean one or several."""
        return self.noun.one and self.noun.many and self.number is None


@dataclass(frozen=True)
class Grounded:
    """A caption, its phrases, and the nouns that were left out: (begin, end, reason)."""

    caption: Caption
    left_out: tuple[tuple[int, int, str], ...]


def mentions(text: str, nouns: Nouns) -> list[Mention]:
    """The nouns of a caption, in order; what speaks of no category ("clock tower") is none."""
    found = list(nouns.pattern.finditer(text))
    made = []
    for place, match in enumerate(found):
        noun = nouns.of(match[0])
        if not noun.categories:
            continue
        start = found[place - 1].end() if place else 0
        before = re.split(r"[^\w\s'-]", text[start : match.start()])[-1].lower().split()[-_BEFORE:]
        after = re.match(r"[\s-]+([\w']+)", text[match.end() :])
        following = after[1].lower() if after else ""
        adjoined = place + 1 < len(found) and not text[match.end() : found[place + 1].start()].strip(" -")
        part = noun.one and (adjoined or following in HEADS)
        part |= noun.describes and bool(following) and following not in OPEN
        denied = bool({"no", "without"} & set(before))
        made.append(Mention(match.start(), match.end(), noun, _number(before), part, denied))
    return made


def _number(before: Sequence[str]) -> int | None:
    for word in reversed(before):
        if word in NUMBERS:
            return NUMBERS[word]
        if word in _BREAKS:
            return None
    return None


def ground(text: str, nouns: Nouns, boxes: Mapping[str, Sequence[int]], crowded: frozenset[str]) -> Grounded:
    """The caption with its nouns tied. `boxes`: the places of each category's; `crowded`: those with a crowd region."""
    found = mentions(text, nouns)
    times = Counter(name for mention in found if not mention.part for name in mention.noun.categories)
    phrases, left_out = [], []
    for mention in found:
        reason = _reason(mention, boxes, crowded, times)
        if reason:
            left_out.append((mention.begin, mention.end, reason))
        else:
            phrases.append(Phrase(((mention.begin, mention.end),), tuple(boxes[mention.noun.categories[0]]), True))
    return Grounded(Caption(text, KIND, tuple(phrases)), tuple(left_out))


def _reason(
    mention: Mention, boxes: Mapping[str, Sequence[int]], crowded: frozenset[str], times: Mapping[str, int]
) -> str:
    """Why a noun is left out; nothing where it is plain."""
    (category, *others), number = mention.noun.categories, mention.number
    labelled = len(boxes.get(category, ()))
    kind_of_some = mention.noun.kind and not mention.one and number is None and labelled > 1
    reasons = {
        PART: mention.part,
        DENIED: mention.denied,
        TWO: bool(others),
        CROWD: category in crowded,
        NOTHING: not labelled,
        AGAIN: times[category] > 1,
        SEVERAL: mention.one and labelled > 1,
        SINGLE: not mention.one and not mention.either and labelled == 1,
        NUMBER: number is not None and number > 1 and number != labelled,
        SOME: kind_of_some,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
