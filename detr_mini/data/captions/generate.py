"""Captions of a scene, of every kind, each true of exactly the things it is tied to.

A caption is tried at random and kept where its meaning is plain and holds (rejection): the sets of `Facts` make a try
cheap. `check.py` proves the outcome from the words alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from detr_mini.data.canvas import SHAPES
from detr_mini.data.captions.facts import ATTRIBUTES, SIDES, Facts, members
from detr_mini.data.captions.records import COLORS, KINDS, SIZES, TEXTURES, Caption, Item
from detr_mini.data.captions.sentences import Named, Sentence, Speaker, Wanted
from detr_mini.data.captions.words import (
    BESIDE,
    BETWEEN,
    FOREMOST,
    FROM,
    LARGER,
    LEADS,
    NEAREST,
    NUMBERS,
    ORDINALS,
    SAME,
    SUPERLATIVES,
    UNSEEN_BESIDE,
    UNSEEN_BETWEEN,
    UNSEEN_LEADS,
    UNSEEN_NEAREST,
)

VALUES = {"shape": SHAPES, "color": COLORS, "size": SIZES, "texture": TEXTURES}
CHANCES = {"shape": 0.85, "color": 0.65, "size": 0.3, "texture": 0.2}
"""How often a description says each attribute."""
TRIES = 40

Relation = tuple[str, tuple[int, ...]]
"""What it is called and its anchors, things of the scene."""


class Captioner:
    """Makes captions of one scene."""

    def __init__(
        self,
        items: Sequence[Item],
        canvas: float,
        rng: random.Random,
        *,
        unseen: bool = False,
        longest_chain: int = 3,
        forbidden: frozenset[tuple[str, str]] = frozenset(),
        required: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        """`unseen`: only captions with a wording that training never shows; `forbidden` (color, shape) pairs stand in
        no caption, of the `required` ones each caption asks for a thing; `longest_chain`: 2 or 3 relations.
        """
        self.facts, self.rng, self.unseen = Facts(items, canvas), rng, unseen
        self.longest_chain, self.forbidden, self.required = longest_chain, forbidden, required
        self._makers: dict[str, Callable[[], Sequence[Caption] | None]] = {
            kind: getattr(self, f"_{kind}") for kind in KINDS
        }

    def make(self, kind: str) -> Sequence[Caption]:
        """One caption of the kind, two of `order`; none where the scene has none that was found."""
        self.roll = (
            self.rng.random()
        )  # which sort of the kind: drawn once, so that what is rarely possible is not rarer still
        for _ in range(TRIES):
            self.speaker = Speaker(self.rng, self.unseen)
            made = self._makers[kind]()
            if made and (self.speaker.novel or not self.unseen) and self._as_required(made):
                return made
        return ()

    def _as_required(self, made: Sequence[Caption]) -> bool:
        if not self.required:
            return True
        items = self.facts.items
        asked = [{(items[i].color, items[i].shape) for p in c.phrases if p.asked for i in p.things} for c in made]
        return made[0].kind == "absent" or all(pairs & self.required for pairs in asked)

    # descriptions

    def _thing(self) -> int:
        return self.rng.randrange(len(self.facts.items))

    def _of(self, thing: int) -> dict[str, str]:
        """A description that fits the thing."""
        item, rng = self.facts.items[thing], self.rng
        while True:
            wanted = {name: getattr(item, name) for name in ATTRIBUTES if rng.random() < CHANCES[name]}
            if wanted:
                return wanted

    def _only(self, thing: int) -> dict[str, str] | None:
        """A description that fits this thing alone."""
        for _ in range(4):
            wanted = self._of(thing)
            if self.facts.fitting(wanted) == 1 << thing:
                return wanted
        return None

    def _absent_wanted(self) -> dict[str, str] | None:
        """A description that fits nothing: that of a thing with one value changed."""
        wanted = self._of(self._thing())
        name = self.rng.choice(list(wanted))
        wanted[name] = self.rng.choice(VALUES[name])
        allowed = (wanted.get("color", ""), wanted.get("shape", "")) not in self.forbidden
        return wanted if allowed and not self.facts.fitting(wanted) else None

    # relations

    def _related(self, relation: Relation, candidates: int) -> int | None:
        name, anchors = relation
        if name == "nearest":
            return self.facts.nearest(anchors[0], candidates)
        if name == "between":
            return self.facts.between(anchors[0], anchors[1], candidates)
        return self.facts.beside(name, anchors[0], candidates)

    def _relation_words(self, name: str) -> str:
        if name == "nearest":
            return self.speaker.once(name, NEAREST, UNSEEN_NEAREST)
        if name == "between":
            return self.speaker.once(name, BETWEEN, UNSEEN_BETWEEN)
        return self.speaker.once(name, BESIDE[name], UNSEEN_BESIDE[name])

    def _some_relation(self) -> tuple[str, int]:
        """Its name and how many anchors it has."""
        roll = self.rng.random()
        if roll < 0.7:
            return self.rng.choice(SIDES), 1
        return ("nearest", 1) if roll < 0.85 else ("between", 2)

    # sentences

    def _simple(
        self,
        kind: str,
        pattern: str,
        target: Named,
        anchors: Sequence[Named] = (),
        detail: str = "",
        number: str = "the",
        **places: str,
    ) -> list[Caption]:
        """`pattern` about the target and its anchors; `places`: words for its other places."""
        sentence = Sentence(self.speaker, [target, *anchors])
        self._lead(sentence, pattern)
        self._follow(sentence, pattern, number, places)
        return [sentence.caption(kind, detail)]

    def _lead(self, sentence: Sentence, pattern: str = "the") -> None:
        lead = self.speaker.once("lead", LEADS, UNSEEN_LEADS)
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
        for index, word in enumerate(self.speaker.description(sentence.named[0].wanted)[0]):
            if index:
                sentence.add("and")
            sentence.add(word, 0)

    @staticmethod
    def _with(sentence: Sentence) -> None:
        sentence.add("with")
        sentence.add({"striped": "stripes", "dotted": "dots"}[sentence.named[0].wanted["texture"]], 0)

    def _plain(self, kind: str, target: Named, detail: str = "", number: str = "the") -> list[Caption] | None:
        pattern = self.speaker.pattern("plain")
        if "{adjectives}" in pattern and set(target.wanted) == {"shape"}:
            return None
        if "{with}" in pattern:
            if target.wanted.get("texture") not in ("striped", "dotted"):
                return None
            if set(target.wanted) - {"texture", "shape"}:
                return None
        return self._simple(kind, pattern, target, detail=detail, number=number)

    def _target(self, wanted: Wanted, found: int | None, at_most: int = 6) -> Named | None:
        """What a singular or plural asks for; None where nothing, or more than `at_most`, is named."""
        if not found or found.bit_count() > at_most:
            return None
        return Named(wanted, found, many=found.bit_count() > 1)

    def _attribute(self) -> Sequence[Caption] | None:
        wanted = self._of(self._thing())
        target = self._target(wanted, self.facts.fitting(wanted))
        return target and self._plain("attribute", target)

    def _count(self) -> Sequence[Caption] | None:
        wanted = self._of(self._thing())
        found = self.facts.fitting(wanted)
        if not 2 <= found.bit_count() <= 6:
            return None
        return self._plain("count", Named(wanted, found, many=True), number=self._number(found.bit_count()))

    def _number(self, count: int) -> str:
        return self.rng.choice(("the ", "the ", "all ", "exactly ", "")) + NUMBERS[count]

    def _list(self) -> Sequence[Caption] | None:
        chosen: list[Named] = []
        taken = 0
        for _ in range(12):
            wanted = self._of(self._thing())
            found = self.facts.fitting(wanted)
            if found & taken or found.bit_count() > 6:
                continue
            taken |= found
            chosen.append(Named(wanted, found, many=found.bit_count() > 1))
            if len(chosen) == 4 or (len(chosen) > 1 and self.rng.random() < 0.4):
                break
        if len(chosen) < 2:
            return None
        sentence = Sentence(self.speaker, chosen)
        self._lead(sentence)
        for phrase, one in enumerate(chosen):
            if phrase:
                sentence.add("and" if phrase == len(chosen) - 1 else ",", glue=phrase < len(chosen) - 1)
            adjectives, noun = self.speaker.description(one.wanted)
            first = (adjectives or [noun])[0]
            article = "an" if first in ("orange", "object") else "a"
            sentence.add(NUMBERS[one.things.bit_count()] if one.many else article)
            sentence.describe(phrase)
        return [sentence.caption("list")]

    def _relation(self) -> Sequence[Caption] | None:
        name, count = self._some_relation()
        anchors = self._anchors(count)
        if anchors is None:
            return None
        wanted = self._of(self._thing())
        candidates = self.facts.fitting(wanted)
        if candidates.bit_count() < 2 and self.rng.random() < 0.85:
            return None  # the words before the relation would do
        found = self._related((name, tuple(members(a.things)[0] for a in anchors)), candidates)
        target = self._target(wanted, found)
        if target is None or (name == "nearest" and candidates.bit_count() < 2):
            return None
        return self._say_relation("relation", target, anchors, name)

    def _anchors(self, count: int) -> list[Named] | None:
        things = self.rng.sample(range(len(self.facts.items)), count)
        wanted = [self._only(thing) for thing in things]
        if any(w is None for w in wanted):
            return None
        return [Named(w, 1 << t, asked=False) for w, t in zip(wanted, things, strict=True) if w is not None]

    def _say_relation(
        self, kind: str, target: Named, anchors: Sequence[Named], name: str, detail: str = ""
    ) -> list[Caption]:
        pattern = self.speaker.pattern("relation")
        return self._simple(kind, pattern, target, anchors, detail, rel=self._relation_words(name))

    def _chain(self) -> Sequence[Caption] | None:
        if self.roll < 0.15:
            return self._both()
        length = self.longest_chain if self.roll < 0.55 else 2
        linked = self._linked([self.rng.choice((*SIDES, "nearest")) for _ in range(length)])
        return linked and self._say_chain("chain", *linked, detail=str(length))

    def _linked(self, names: Sequence[str]) -> tuple[list[Named], list[str]] | None:
        """Things that each stand in a relation to the next, the last described alone; outermost first."""
        anchors = self._anchors(1)
        if anchors is None:
            return None
        named = anchors
        for position, name in enumerate(reversed(names)):
            wanted = self._of(self._thing())
            candidates = self.facts.fitting(wanted)
            if candidates.bit_count() < 2 and (name == "nearest" or self.rng.random() < 0.8):
                return None
            found = self._related((name, members(named[0].things)), candidates)
            last = position == len(names) - 1
            if not found or found.bit_count() > (4 if last else 1):
                return None
            named = [Named(wanted, found, asked=last, many=found.bit_count() > 1), *named]
        return named, list(names)

    def _say_chain(
        self, kind: str, named: Sequence[Named], names: Sequence[str], detail: str, pattern: str | None = None
    ) -> list[Caption]:
        sentence = Sentence(self.speaker, list(named))
        pattern = pattern or self.speaker.pattern("relation")
        if len(names) > 2 and pattern.index("{a}") < pattern.index("{t}"):
            pattern = "{the} {t} {rel} {a}"
        self._lead(sentence, pattern)

        def nested() -> None:
            for phrase in range(1, len(named)):
                if phrase > 1:
                    sentence.add(self._relation_words(names[phrase - 1]))
                sentence.add("the")
                sentence.describe(phrase)

        places = {
            "the": partial(sentence.add, "the"),
            "t": partial(sentence.describe, 0),
            "rel": partial(sentence.add, self._relation_words(names[0])),
            "a": nested,
        }
        sentence.follow(pattern, places)
        return [sentence.caption(kind, detail)]

    def _both(self) -> Sequence[Caption] | None:
        anchors = self._anchors(2)
        if anchors is None:
            return None
        names = self.rng.sample(SIDES, 2)
        wanted = self._of(self._thing())
        candidates = self.facts.fitting(wanted)
        first, second = (
            self._related((name, members(anchor.things)), candidates)
            for name, anchor in zip(names, anchors, strict=True)
        )
        if first is None or second is None or candidates.bit_count() < 2:
            return None
        target = self._target(wanted, first & second, 4)
        if target is None:
            return None
        rel, rel2 = map(self._relation_words, names)
        return self._simple("chain", self.speaker.pattern("both"), target, anchors, "2", rel=rel, rel2=rel2)

    def _order(self) -> Sequence[Caption] | None:
        if self.roll < 0.6:
            return self._swapped_attributes()
        return self._swapped_relations() if self.roll < 0.85 else self._swapped_roles()

    def _swapped_attributes(self) -> Sequence[Caption] | None:
        """The red star left of the blue circle; the blue star left of the red circle."""
        for _ in range(8):
            a, b = self.rng.sample(self.facts.items, 2)
            attribute = self.rng.choice(("color", "color", "size", "texture"))
            if a.shape != b.shape and getattr(a, attribute) != getattr(b, attribute):
                break
        else:
            return None
        wanted = [{"shape": item.shape, attribute: getattr(item, attribute)} for item in (a, b)]
        swapped = [
            {**wanted[0], attribute: wanted[1][attribute]},
            {**wanted[1], attribute: wanted[0][attribute]},
        ]
        return self._pair("attributes", wanted, swapped, self.rng.choice((*SIDES, "nearest")))

    def _swapped_roles(self) -> Sequence[Caption] | None:
        """The star nearest to the circle; the circle nearest to the star."""
        one, other = self.rng.sample(range(len(self.facts.items)), 2)
        wanted = self._only(one), self._only(other)
        if wanted[0] is None or wanted[1] is None:
            return None
        both = [wanted[0], wanted[1]]
        return self._pair("roles", both, both[::-1], "nearest")

    def _pair(
        self, detail: str, wanted: Sequence[Wanted], swapped: Sequence[Wanted], name: str
    ) -> Sequence[Caption] | None:
        """Two sentences of the same words: (asked for, anchor) as `wanted`, and as `swapped`."""
        said = []
        for asked, anchor in (wanted, swapped):
            fits = self.facts.fitting(anchor)
            if fits.bit_count() != 1 or any(
                (w.get("color"), w.get("shape")) in self.forbidden for w in (asked, anchor)
            ):
                return None
            found = self._related((name, members(fits)), self.facts.fitting(asked))
            if not found or found.bit_count() > 1:
                return None
            said.append((Named(asked, found), Named(anchor, fits, asked=False)))
        if said[0][0].things == said[1][0].things:
            return None
        pattern, words = self.speaker.pattern("relation"), self._relation_words(name)
        made = [self._simple("order", pattern, a, [b], detail, rel=words)[0] for a, b in said]
        return made if _same_words(made) else None

    def _swapped_relations(self) -> Sequence[Caption] | None:
        """The star left of the circle above the square; the star above the circle left of the square."""
        names, anchors = self.rng.sample(SIDES, 2), self._anchors(2)
        asked = self._of(self._thing())
        if anchors is None:
            return None
        near, far = (members(anchor.things)[0] for anchor in anchors)
        said = []
        for first, second in (names, names[::-1]):
            found = self._related((first, (near,)), self.facts.fitting(asked))
            if not found or found.bit_count() > 1 or not self._related((second, (far,)), 1 << near):
                return None
            said.append(([Named(asked, found), *anchors], (first, second)))
        if said[0][0][0].things == said[1][0][0].things:
            return None
        pattern = self.speaker.pattern("relation")
        made = [self._say_chain("order", named, order, "roles", pattern)[0] for named, order in said]
        return made if _same_words(made) else None

    def _ordinal(self) -> Sequence[Caption] | None:
        wanted = self._of(self._thing())
        candidates = self.facts.fitting(wanted)
        side = self.rng.choice(SIDES)
        order = self.facts.ranked(side, candidates) if candidates.bit_count() > 1 else None
        if order is None:
            return None
        place = self.rng.randrange(min(len(order), len(ORDINALS)))
        target = Named(wanted, 1 << order[place])
        if place == 0 and self.rng.random() < 0.6:
            pattern = self.speaker.pattern("foremost")
            if "farthest" in pattern or "furthest" in pattern:
                pattern = pattern.replace(
                    "the {from}", {"above": "the top", "below": "the bottom"}.get(side, "the {from}")
                )
            words = self.rng.choice(FOREMOST[side])
            return self._simple("ordinal", pattern, target, foremost=words, **{"from": FROM[side]})
        pattern = self.speaker.pattern("ordinal")
        return self._simple("ordinal", pattern, target, nth=ORDINALS[place], **{"from": FROM[side]})

    def _compare(self) -> Sequence[Caption] | None:
        wanted = self._of(self._thing())
        candidates, how = self.facts.fitting(wanted), self.rng.choice(("larger", "smaller"))
        smaller = how == "smaller"
        if self.rng.random() < 0.4:
            target = self._target(wanted, self.facts.largest(candidates, smaller), 1)
            words = self.rng.choice(SUPERLATIVES[how])
            return target and self._simple("compare", self.speaker.pattern("superlative"), target, most=words)
        anchors = self._anchors(1)
        if anchors is None or candidates.bit_count() < 2:
            return None
        target = self._target(wanted, self.facts.larger(members(anchors[0].things)[0], candidates, smaller), 4)
        words = self.rng.choice(LARGER[how])
        return target and self._simple("compare", self.speaker.pattern("compare"), target, anchors, rel=words)

    def _same(self) -> Sequence[Caption] | None:
        anchors = self._anchors(1)
        attribute = self.rng.choice(("color", "color", "shape", "size", "texture"))
        wanted = {name: value for name, value in self._of(self._thing()).items() if name != attribute}
        candidates = self.facts.fitting(wanted)
        if anchors is None or candidates.bit_count() < 2:
            return None
        target = self._target(wanted, self.facts.same(attribute, members(anchors[0].things)[0], candidates), 4)
        words = self.rng.choice(SAME[attribute])
        return target and self._simple("same", self.speaker.pattern("same"), target, anchors, attribute=words)

    def _not(self) -> Sequence[Caption] | None:
        thing = self._thing()
        wanted = self._of(thing)
        attribute = self.rng.choice(("color", "color", "size", "texture"))
        wanted.pop(attribute, None)
        candidates = self.facts.fitting(wanted)
        value = getattr(self.facts.items[self.rng.choice(members(candidates))], attribute)
        target = self._target(wanted, candidates & ~self.facts.having(attribute, value))
        if target is None or target.things == candidates:
            return None
        negated = self.speaker.description({attribute: value})[0][0]
        pattern = self.speaker.pattern("not")
        if "non-" in pattern and set(target.wanted) - {"shape"}:
            return None
        sentence = Sentence(self.speaker, [target])
        self._lead(sentence, pattern)
        places = {
            "the": partial(sentence.add, "the"),
            "t": partial(sentence.describe, 0),
            "n": partial(sentence.add, negated, glue="non-" in pattern),
        }
        sentence.follow(pattern, places)
        return [sentence.caption("not")]

    def _absent(self) -> Sequence[Caption] | None:
        reason = ("attribute", "relation", "count", "anchor")[int(self.roll * 4)]
        return getattr(self, f"_absent_{reason}")()

    def _absent_attribute(self) -> Sequence[Caption] | None:
        wanted = self._absent_wanted()
        return wanted and self._plain("absent", Named(wanted, 0), "attribute")

    def _absent_count(self) -> Sequence[Caption] | None:
        wanted = self._of(self._thing())
        count = self.facts.fitting(wanted).bit_count()
        said = count + self.rng.choice((-2, -1, 1, 2))
        if not 2 <= said <= 6:
            return None
        return self._plain("absent", Named(wanted, 0, many=True), "count", number=self._number(said))

    def _absent_relation(self) -> Sequence[Caption] | None:
        name, count = self._some_relation()
        anchors = self._anchors(count)
        wanted = self._of(self._thing())
        if anchors is None or name == "nearest":
            return None
        things = tuple(members(a.things)[0] for a in anchors)
        candidates = self.facts.fitting(wanted)
        for thing in things:
            candidates &= ~(1 << thing)
        if not candidates or self._related((name, things), candidates) != 0:
            return None
        return self._say_relation("absent", Named(wanted, 0), anchors, name, "relation")

    def _absent_anchor(self) -> Sequence[Caption] | None:
        wanted, anchor = self._of(self._thing()), self._absent_wanted()
        if anchor is None:
            return None
        name = self.rng.choice((*SIDES, "nearest"))
        many = self.facts.fitting(wanted).bit_count() > 1 and name != "nearest" and self.rng.random() < 0.3
        target, missing = Named(wanted, 0, many=many), Named(anchor, 0, asked=False)
        return self._say_relation("absent", target, [missing], name, "anchor")


def _same_words(pair: Sequence[Caption]) -> bool:
    first, second = (sorted(caption.text.lower().rstrip(".?").replace(",", "").split()) for caption in pair)
    return first == second
