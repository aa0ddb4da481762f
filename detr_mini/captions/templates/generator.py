"""Captions of a scene, of every kind, each true of exactly the things it is tied to.

A caption is tried at random and kept where its meaning is plain and holds (rejection): the sets of `Facts` make a try
cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from detr_mini.captions.templates import absent
from detr_mini.captions.templates import comparative as related
from detr_mini.captions.templates import unary as alone
from detr_mini.captions.templates.builder import Teller
from detr_mini.captions.templates.lexicon import Lexicon
from detr_mini.structures import Caption

MAKERS: dict[str, Callable[[Teller], Sequence[Caption] | None]] = {
    "list": alone.listed, "attribute": alone.attribute, "count": alone.count, "ordinal": alone.ordinal,
    "compare": alone.compare, "same": alone.same, "not": alone.negated, "relation": related.relation,
    "chain": related.chain, "order": related.order, "absent": absent.absent,
}  # fmt: skip
TRIES = 40
PLAIN = ("attribute", "relation", "chain", "compare")
"""Kinds that may ask for several without saying how many."""


def decided(caption: Caption, lexicon: Lexicon, complete: frozenset[str]) -> bool:
    """Whether no thing without a box could make the caption false, where the `complete` shapes alone have all boxes.

    Of another shape it may only ask for several, without a number. The one, none, the first, the largest, the nearest
    and exactly three are what they are only where nothing is missing.
    """
    for phrase in caption.phrases:
        several = caption.kind in PLAIN and phrase.asked and len(phrase.things) > 1
        beside_nothing = caption.detail == "anchor" and phrase.asked  # left of what is not there: so is nothing
        words = " ".join(caption.text[begin:end] for begin, end in phrase.spans)
        if not several and not beside_nothing and lexicon.shape_of(words) not in complete:
            return False
    return True


def number_is_clear(caption: Caption, lexicon: Lexicon) -> bool:
    """Whether the words tell several objects from one: "the sheep" does not, "two sheep" does."""
    several = (phrase for phrase in caption.phrases if len(phrase.things) > 1)
    nouns = {" ".join(caption.text[begin:end] for begin, end in phrase.spans) for phrase in several}
    return caption.kind == "count" or nouns.isdisjoint(chain(*lexicon.synonyms.values()))


def says_something(caption: Caption) -> bool:
    """Whether no two of its phrases name the same: else the platelet is left of what is right of the platelet."""
    named = [phrase.things for phrase in caption.phrases if phrase.things]
    return len(set(named)) == len(named)


class Captioner(Teller):
    """Makes captions of one scene."""

    def make(self, kind: str) -> Sequence[Caption]:
        """One caption of the kind, two of `order`; none where the scene has none that was found."""
        self.roll = self.rng.random()  # once, not each try: else what is seldom possible would be rarer still
        for _ in range(TRIES):
            self.begin()
            made = MAKERS[kind](self)
            if made and (self.speaker.novel or not self.unseen) and self._as_required(made) and self._decided(made):
                return made
        return ()

    def _decided(self, made: Sequence[Caption]) -> bool:
        complete = self.complete
        return complete is None or all(
            decided(c, self.lexicon, complete) and number_is_clear(c, self.lexicon) and says_something(c) for c in made
        )

    def _as_required(self, made: Sequence[Caption]) -> bool:
        if not self.required:
            return True
        items = self.facts.items
        asked = [{(items[i].color, items[i].shape) for p in c.phrases if p.asked for i in p.things} for c in made]
        return made[0].kind == "absent" or all(pairs & self.required for pairs in asked)
