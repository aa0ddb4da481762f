"""Captions of a scene, of every kind, each true of exactly the things it is tied to.

A caption is tried at random and kept where its meaning is plain and holds (rejection): the sets of `Facts` make a try
cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from detr_mini.data.captions import absent, alone, related
from detr_mini.data.captions.teller import Teller
from detr_mini.structures import Caption

MAKERS: dict[str, Callable[[Teller], Sequence[Caption] | None]] = {
    "list": alone.listed, "attribute": alone.attribute, "count": alone.count, "ordinal": alone.ordinal,
    "compare": alone.compare, "same": alone.same, "not": alone.negated, "relation": related.relation,
    "chain": related.chain, "order": related.order, "absent": absent.absent,
}  # fmt: skip
TRIES = 40


class Captioner(Teller):
    """Makes captions of one scene."""

    def make(self, kind: str) -> Sequence[Caption]:
        """One caption of the kind, two of `order`; none where the scene has none that was found."""
        self.roll = self.rng.random()  # once, not each try: else what is seldom possible would be rarer still
        for _ in range(TRIES):
            self.begin()
            made = MAKERS[kind](self)
            if made and (self.speaker.novel or not self.unseen) and self._as_required(made):
                return made
        return ()

    def _as_required(self, made: Sequence[Caption]) -> bool:
        if not self.required:
            return True
        items = self.facts.items
        asked = [{(items[i].color, items[i].shape) for p in c.phrases if p.asked for i in p.things} for c in made]
        return made[0].kind == "absent" or all(pairs & self.required for pairs in asked)
