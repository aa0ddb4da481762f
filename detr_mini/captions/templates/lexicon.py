"""The wording of made captions: synonyms and sentence patterns, some of which training never shows.

A pattern holds words and slots: {the} an article or a number, {t} the description of the target, {rel} a relation, {a}
an anchor with its article, {be}, {lie}, {sit}, {have} a verb that agrees with the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "star": ("star",),
    "cross": ("cross", "plus"),
    "heart": ("heart",),
    "": ("thing", "object", "shape"),
    "cyan": ("cyan", "turquoise"),
    "purple": ("purple", "violet"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "plain": ("plain", "uniform"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
}
PLURALS = {"box": "boxes", "cross": "crosses", "plus": "pluses"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
ORDINALS = ("first", "second", "third", "fourth", "fifth")

UNSEEN_PAIRS = frozenset(
    {
        ("tiny", "disc"), ("huge", "box"), ("little", "plus"), ("big", "wedge"), ("violet", "box"),
        ("turquoise", "disc"), ("spotted", "wedge"), ("stripy", "plus"), ("uniform", "disc"), ("tiny", "star"),
        ("huge", "heart"), ("violet", "heart"), ("stripy", "star"), ("spotted", "box"), ("little", "object"),
        ("big", "shape"),
    }
)  # fmt: skip
"""Pairs of synonyms that training shows only apart, never together in one description."""

LEADS = ("", "", "", "", "find", "show me", "where {be}", "point at", "please find", "look for", "i want")
UNSEEN_LEADS = ("could you find", "mark", "i am looking for")

BESIDE = {
    "left": ("left of", "to the left of", "on the left of"),
    "right": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath", "lower than"),
}
UNSEEN_BESIDE = {
    "left": ("at the left side of", "left from"),
    "right": ("at the right side of", "right from"),
    "above": ("further up than",),
    "below": ("further down than",),
}
NEAREST, UNSEEN_NEAREST = ("nearest to", "closest to"), ("nearest",)
BETWEEN, UNSEEN_BETWEEN = ("between", "in between"), ("in the middle of",)
LARGER = {"larger": ("larger than", "bigger than"), "smaller": ("smaller than",)}
SUPERLATIVES = {"larger": ("largest", "biggest"), "smaller": ("smallest",)}
FROM = {"left": "left", "right": "right", "above": "top", "below": "bottom"}
FOREMOST = {
    "left": ("leftmost",),
    "right": ("rightmost",),
    "above": ("topmost", "highest"),
    "below": ("bottommost", "lowest"),
}
SAME = {"color": ("colour", "color"), "size": ("size",), "shape": ("shape",), "texture": ("texture", "pattern")}

PATTERNS: dict[str, tuple[str, ...]] = {
    "plain": ("{the} {t}", "{the} {t}", "{the} {t}", "{the} {noun} that {be} {adjectives}", "{the} {noun} {with}"),
    "relation": (
        "{the} {t} {rel} {a}", "{the} {t} {rel} {a}", "{the} {t} that {be} {rel} {a}", "{the} {t} which {be} {rel} {a}",
        "{the} {t} that {lie} {rel} {a}", "{rel} {a} , {the} {t}", "look {rel} {a} : find {the} {t}",
    ),
    "both": ("{the} {t} that {be} both {rel} {a} and {rel2} {a2}", "{the} {t} {rel} {a} and also {rel2} {a2}"),
    "ordinal": ("the {nth} {t} from the {side}", "the {nth} {t} counting from the {side}"),
    "foremost": ("the {foremost} {t}", "the {t} farthest to the {side}"),
    "compare": ("{the} {t} {rel} {a}", "{the} {t} which {be} {rel} {a}"),
    "superlative": ("the {most} {t}",),
    "same": (
        "{the} {t} of the same {attribute} as {a}", "{the} {t} with the same {attribute} as {a}",
        "{the} {t} that {have} the same {attribute} as {a}",
    ),
    "not": (
        "{the} {t} that {be} not {n}", "{the} {t} which {be} not {n}", "{the} non-{n} {t}",
    ),
}  # fmt: skip
UNSEEN_PATTERNS: dict[str, tuple[str, ...]] = {
    "plain": ("{the} {noun} which {be} {adjectives}",),
    "relation": ("{the} {t} that {sit} {rel} {a}", "{rel} {a} : find {the} {t}"),
    "both": ("{the} {t} which {be} both {rel} {a} and {rel2} {a2}",),
    "ordinal": ("counted from the {side} , the {nth} {t}",),
    "foremost": ("the {t} furthest to the {side}",),
    "compare": ("{the} {t} that {be} {rel} {a}",),
    "superlative": ("the {t} that is {most}",),
    "same": ("{the} {t} in the same {attribute} as {a}",),
    "not": ("{the} {t} that {arent} {n}",),
}
VERBS = {
    "be": ("is", "are"),
    "lie": ("lies", "lie"),
    "sit": ("sits", "sit"),
    "have": ("has", "have"),
    "arent": ("isn't", "aren't"),
}

BEFORE_NOUN = {*NUMBERS[1:], *ORDINALS, *chain(*FOREMOST.values(), *SUPERLATIVES.values())}
"""Words before a noun that count, order or rank it."""
_RELATIONS = chain(
    *BESIDE.values(), *UNSEEN_BESIDE.values(), *LARGER.values(), NEAREST, UNSEEN_NEAREST, BETWEEN, UNSEEN_BETWEEN
)
AFTER_NOUN = (
    *(f"{relation} the " for relation in _RELATIONS),
    *(f"{start} the {side} " for start in ("from", "counting from", "farthest to") for side in FROM.values()),
)
"""Beginnings of what follows a noun."""


@dataclass(frozen=True)
class Lexicon:
    """The attributes that captions of a dataset use, and the words for their values."""

    values: Mapping[str, tuple[str, ...]]
    """Attribute to its values. The attribute that gives the noun is always called `shape`."""
    chances: Mapping[str, float]
    """Attribute to the probability that a description names it."""
    synonyms: Mapping[str, tuple[str, ...]]
    """Value to its words, in the singular."""
    plurals: Mapping[str, str] = field(default_factory=dict)
    """Noun to its plural where `plural` is wrong."""

    @property
    def bare(self) -> bool:
        """Whether there are only nouns, no adjectives."""
        return set(self.values) == {"shape"}

    def plural(self, noun: str) -> str:
        """The plural of a noun."""
        return self.plurals.get(noun) or plural(noun)

    def ambiguity(self) -> str | None:
        """The first pair of nouns that a reader of the captions cannot tell apart, as a clause for an error."""
        owner: dict[str, str] = {}
        for shape, nouns in self.synonyms.items():
            for form in (form for noun in nouns for form in (noun, self.plural(noun))):
                if owner.setdefault(form.casefold(), shape) != shape:
                    return f"'{form}' names both {owner[form.casefold()]} and {shape}"
        for form in owner:
            words = form.split()
            for cut in range(1, len(words)):
                before, after = " ".join(words[:cut]), " ".join(words[cut:])
                if (after in owner and (before in BEFORE_NOUN or before.isdigit())) or (
                    before in owner and any(start.startswith(f"{after} ") for start in AFTER_NOUN)
                ):
                    return f"'{form}' may also mean '{before}' and then '{after}'"
        return None

    def shape_of(self, words: str) -> str:
        """The shape that a singular or plural noun names, or "" for an unknown noun."""
        form = words.lower()
        found = (s for s, nouns in self.synonyms.items() if any(form in (noun, self.plural(noun)) for noun in nouns))
        return next(found, "")


def article(word: str) -> str:
    """ "a" or "an"."""
    return "an" if word[0] in "aeiou" and not word.startswith(("uni", "use", "eu", "one")) else "a"


def plural(noun: str) -> str:
    """The plural of a noun; of the last word in a longer one."""
    if noun in PLURALS:
        return PLURALS[noun]
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s")
