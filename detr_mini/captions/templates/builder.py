"""What all kinds of captions share: descriptions of objects, relations between them, filled patterns."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from detr_mini.captions.templates.lexicon import (
    BESIDE,
    BETWEEN,
    LEADS,
    NEAREST,
    NUMBERS,
    SYNONYMS,
    UNSEEN_BESIDE,
    UNSEEN_BETWEEN,
    UNSEEN_LEADS,
    UNSEEN_NEAREST,
    Lexicon,
)
from detr_mini.captions.templates.relations import SIDES, Relations
from detr_mini.captions.templates.scene import COLORS, SIZES, TEXTURES, Item
from detr_mini.captions.templates.sentence import Described, Sentence, Wanted, Wording
from detr_mini.phrases import Caption
from detr_mini.scenes.rendering import SHAPES

MADE = Lexicon(
    {"shape": SHAPES, "color": COLORS, "size": SIZES, "texture": TEXTURES},
    {"shape": 0.85, "color": 0.65, "size": 0.3, "texture": 0.2},
    SYNONYMS,
)
"""The words of made scenes."""

Relation = tuple[str, tuple[int, ...]]
"""Its name, and its anchors as objects of the scene."""


class CaptionBuilder:
    """Describes and relates the objects of one scene."""

    def __init__(
        self,
        items: Sequence[Item],
        canvas: float | int,
        rng: random.Random,
        *,
        unseen: bool = False,
        longest_chain: int = 3,
        forbidden: frozenset[tuple[str, str]] = frozenset(),
        required: frozenset[tuple[str, str]] = frozenset(),
        lexicon: Lexicon = MADE,
        complete: frozenset[str] | None = None,
        hidden: frozenset[str] = frozenset(),
        fits: Callable[[str], bool] | None = None,
    ) -> None:
        """`canvas`: its side in pixels. `unseen`: only captions with a wording that training never shows. No caption
        names a `forbidden` (color, shape) pair; each caption asks for an object of a `required` one. `longest_chain`: 2
        or 3 relations. `complete`: the shapes whose objects all have a box, None for all; captions name the other
        shapes in the plural only. `hidden` shapes are never named. `fits`: whether a text is short enough.
        """
        self.relations, self.rng, self.unseen = Relations(items, canvas), rng, unseen
        self.lexicon, self.complete, self.fits = lexicon, complete, fits
        everything: Sequence[int] = range(len(items))
        self.groups, self.possible_anchors = [everything], everything
        if complete is not None:  # shapes are equally likely, however many objects they have
            shapes = sorted({item.shape for item in items} - hidden)
            self.groups = [[i for i in everything if items[i].shape == shape] for shape in shapes]
            single = [group[0] for shape, group in zip(shapes, self.groups, strict=True) if len(group) == 1]
            self.possible_anchors = [i for i in single if items[i].shape in complete]
        self.longest_chain, self.forbidden, self.required = longest_chain, forbidden, required
        self.roll = 0.0
        """In [0, 1): selects the variant of a kind."""
        self.begin()

    def begin(self) -> None:
        """Start a new sentence with a new choice of words."""
        self.wording = Wording(self.rng, self.lexicon, self.unseen)

    def any_object(self) -> int:
        return self.rng.choice(self.groups[0] if len(self.groups) == 1 else self.rng.choice(self.groups))

    def description_of(self, item: int) -> dict[str, str]:
        """A description that fits the object."""
        own, rng, chances = self.relations.items[item], self.rng, self.lexicon.chances.items()
        while True:
            wanted = {name: getattr(own, name) for name, chance in chances if rng.random() < chance}
            if wanted:
                return wanted

    def only(self, item: int) -> dict[str, str] | None:
        """A description that fits this object alone."""
        for _ in range(4):
            wanted = self.description_of(item)
            if self.relations.fitting(wanted) == 1 << item:
                return wanted
        return None

    def description_of_nothing(self) -> dict[str, str] | None:
        """A description that fits no object: that of an object with one value changed."""
        wanted = self.description_of(self.any_object())
        name = self.rng.choice(list(wanted))
        wanted[name] = self.rng.choice(self.lexicon.values[name])
        allowed = (wanted.get("color", ""), wanted.get("shape", "")) not in self.forbidden
        return wanted if allowed and not self.relations.fitting(wanted) else None

    def related(self, relation: Relation, candidates: int) -> int | None:
        name, anchors = relation
        if name == "nearest":
            return self.relations.nearest(anchors[0], candidates)
        if name == "between":
            return self.relations.between(anchors[0], anchors[1], candidates)
        return self.relations.beside(name, anchors[0], candidates)

    def relation_words(self, name: str) -> str:
        if name == "nearest":
            return self.wording.once(name, NEAREST, UNSEEN_NEAREST)
        if name == "between":
            return self.wording.once(name, BETWEEN, UNSEEN_BETWEEN)
        return self.wording.once(name, BESIDE[name], UNSEEN_BESIDE[name])

    def some_relation(self) -> tuple[str, int]:
        """A random relation: its name and its number of anchors."""
        roll = self.rng.random()
        if roll < 0.7:
            return self.rng.choice(SIDES), 1
        return ("nearest", 1) if roll < 0.85 else ("between", 2)

    def say(
        self,
        kind: str,
        pattern: str,
        target: Described,
        anchors: Sequence[Described] = (),
        detail: str = "",
        number: str = "the",
        **places: str,
    ) -> list[Caption]:
        """A caption from `pattern`, the target and its anchors. `places`: words for the other slots."""
        sentence = Sentence(self.wording, [target, *anchors])
        self.lead(sentence, pattern)
        self._follow(sentence, pattern, number, places)
        return [sentence.caption(kind, detail)]

    def lead(self, sentence: Sentence, pattern: str = "the") -> None:
        lead = self.wording.once("lead", LEADS, UNSEEN_LEADS)
        if lead and pattern.startswith(("the", "{the}")):
            sentence.follow(lead, {})

    def _follow(self, sentence: Sentence, pattern: str, number: str, places: Mapping[str, str]) -> None:
        def anchor(first: int, last: int) -> None:
            for phrase in range(first, last):
                if phrase > first:
                    sentence.add("and")
                sentence.add("the")
                sentence.describe(phrase)

        split = len(sentence.named) - 1 if "{a2}" in pattern else len(sentence.named)
        says: dict[str, Callable[[], None]] = {name: partial(sentence.add, words) for name, words in places.items()}
        says |= {
            "the": partial(sentence.add, number),
            "t": partial(sentence.describe, 0),
            "a": partial(anchor, 1, split),
            "a2": partial(anchor, split, len(sentence.named)),
            "noun": partial(sentence.noun, 0),
            "adjectives": partial(self._adjectives, sentence),
            "with": partial(self._with, sentence),
        }
        sentence.follow(pattern, says)

    def _adjectives(self, sentence: Sentence) -> None:
        for index, word in enumerate(self.wording.description(sentence.named[0].wanted)[0]):
            if index:
                sentence.add("and")
            sentence.add(word, 0)

    @staticmethod
    def _with(sentence: Sentence) -> None:
        sentence.add("with")
        sentence.add({"striped": "stripes", "dotted": "dots"}[sentence.named[0].wanted["texture"]], 0)

    def say_plain(self, kind: str, target: Described, detail: str = "", number: str = "the") -> list[Caption] | None:
        pattern = self.wording.pattern("plain")
        if "{adjectives}" in pattern and set(target.wanted) == {"shape"}:
            return None
        if "{with}" in pattern:
            if target.wanted.get("texture") not in ("striped", "dotted"):
                return None
            if set(target.wanted) - {"texture", "shape"}:
                return None
        return self.say(kind, pattern, target, detail=detail, number=number)

    def target(self, wanted: Wanted, found: int | None, at_most: int = 6) -> Described | None:
        """The target in the singular or plural. None where it would name no object or too many."""
        if not found or self.too_many(found, at_most):
            return None
        return Described(wanted, found, many=found.bit_count() > 1)

    def too_many(self, things: int, at_most: int) -> bool:
        """Whether a caption of a made scene would name more than `at_most`. Captions from boxes have no limit."""
        return self.complete is None and things.bit_count() > at_most

    def anchors(self, count: int) -> list[Described] | None:
        if len(self.possible_anchors) < count:
            return None
        things = self.rng.sample(self.possible_anchors, count)
        wanted = [self.only(item) for item in things]
        if any(w is None for w in wanted):
            return None
        return [Described(w, 1 << t, asked=False) for w, t in zip(wanted, things, strict=True) if w is not None]

    def say_relation(
        self, kind: str, target: Described, anchors: Sequence[Described], name: str, detail: str = ""
    ) -> list[Caption]:
        pattern = self.wording.pattern("relation")
        return self.say(kind, pattern, target, anchors, detail, rel=self.relation_words(name))

    def number(self, count: int) -> str:
        return self.rng.choice(("the ", "the ", "all ", "exactly ", "")) + NUMBERS[count]
