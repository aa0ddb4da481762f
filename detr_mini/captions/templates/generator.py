"""Makes captions of a scene, of every kind, each true of exactly the objects that its phrases name.

It draws captions at random and rejects those that are false or unclear. The bit sets of `Relations` make a try cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from detr_mini.captions.templates import absent, comparative, unary
from detr_mini.captions.templates.builder import CaptionBuilder
from detr_mini.captions.templates.lexicon import Lexicon
from detr_mini.errors import ConfigError
from detr_mini.formats.values import is_number
from detr_mini.phrases import Caption

MAKERS: dict[str, Callable[[CaptionBuilder], Sequence[Caption] | None]] = {
    "list": unary.listed, "attribute": unary.attribute, "count": unary.count, "ordinal": unary.ordinal,
    "compare": unary.compare, "same": unary.same, "not": unary.negated, "relation": comparative.relation,
    "chain": comparative.chain, "order": comparative.order, "absent": absent.absent,
}  # fmt: skip
TRIES = 40
PLAIN = ("attribute", "relation", "chain", "compare")
"""Kinds that may ask for several objects without a number."""


def weights_of(kinds: Mapping[str, Any] | None, usual: Mapping[str, float]) -> dict[str, float | int]:
    """How often each kind is drawn: as `usual`, or as a config says. ConfigError for a value that is no weight."""
    for kind, weight in (kinds or {}).items():
        if not is_number(weight) or weight < 0:
            raise ConfigError(f"kinds.{kind} is {weight!r}; it must be a number of at least 0 (0 leaves the kind out)")
    weights = {**usual, **(kinds or {})}
    if not any(weights.values()):
        raise ConfigError("kinds leaves every kind of caption out; give one of them a weight above 0")
    return weights


def decided(caption: Caption, lexicon: Lexicon, complete: frozenset[str]) -> bool:
    """Whether the caption stays true if only the `complete` shapes have all their boxes.

    Of another shape it may only ask for several objects, without a number. One missing box could change which object is
    the only, first, largest or nearest one, and how many there are.
    """
    for phrase in caption.phrases:
        several = caption.kind in PLAIN and phrase.asked and len(phrase.things) > 1
        beside_nothing = caption.detail == "anchor" and phrase.asked  # nothing is left of a missing anchor
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
    """Whether all phrases name different objects. Else: the platelet left of the cell right of the platelet."""
    named = [phrase.things for phrase in caption.phrases if phrase.things]
    return len(set(named)) == len(named)


class Captioner(CaptionBuilder):
    """Makes captions of one scene."""

    def make(self, kind: str) -> Sequence[Caption]:
        """One caption of the kind, two of `order`, none where no try succeeds or the scene is empty."""
        if not self.relations.items:
            return ()
        self.roll = self.rng.random()  # once, not per try: otherwise rarely possible variants would be rarer still
        for _ in range(TRIES):
            self.begin()
            made = MAKERS[kind](self)
            if not made or (self.unseen and not self.wording.novel):
                continue
            if self._as_required(made) and self._decided(made) and self._fit(made):
                return made
        return ()

    def _decided(self, made: Sequence[Caption]) -> bool:
        complete = self.complete
        return complete is None or all(
            decided(c, self.lexicon, complete) and number_is_clear(c, self.lexicon) and says_something(c) for c in made
        )

    def _fit(self, made: Sequence[Caption]) -> bool:
        return self.fits is None or all(self.fits(caption.text) for caption in made)

    def _as_required(self, made: Sequence[Caption]) -> bool:
        if not self.required:
            return True
        items = self.relations.items
        asked = [{(items[i].color, items[i].shape) for p in c.phrases if p.asked for i in p.things} for c in made]
        return made[0].kind == "absent" or all(pairs & self.required for pairs in asked)
