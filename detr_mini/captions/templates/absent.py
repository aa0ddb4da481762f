"""Sentences that name nothing in their scene, for four reasons."""

from __future__ import annotations

from collections.abc import Sequence

from detr_mini.captions.templates.builder import Teller
from detr_mini.captions.templates.relations import SIDES, members
from detr_mini.captions.templates.sentence import Named
from detr_mini.structures import Caption


def _no_attribute(teller: Teller) -> Sequence[Caption] | None:
    wanted = teller.description_of_nothing()
    return None if wanted is None else teller.say_plain("absent", Named(wanted, 0), "attribute")


def _no_count(teller: Teller) -> Sequence[Caption] | None:
    wanted = teller.description_of(teller.thing())
    count = teller.facts.fitting(wanted).bit_count()
    said = count + teller.rng.choice((-2, -1, 1, 2))
    if not 2 <= said <= 6:
        return None
    return teller.say_plain("absent", Named(wanted, 0, many=True), "count", number=teller.number(said))


def _no_relation(teller: Teller) -> Sequence[Caption] | None:
    name, count = teller.some_relation()
    anchors = teller.anchors(count)
    wanted = teller.description_of(teller.thing())
    if anchors is None or name == "nearest":
        return None
    things = tuple(members(a.things)[0] for a in anchors)
    candidates = teller.facts.fitting(wanted)
    for thing in things:
        candidates &= ~(1 << thing)
    if not candidates or teller.related((name, things), candidates) != 0:
        return None
    return teller.say_relation("absent", Named(wanted, 0), anchors, name, "relation")


def _no_anchor(teller: Teller) -> Sequence[Caption] | None:
    wanted, anchor = teller.description_of(teller.thing()), teller.description_of_nothing()
    if anchor is None:
        return None
    name = teller.rng.choice((*SIDES, "nearest"))
    many = teller.facts.fitting(wanted).bit_count() > 1 and name != "nearest" and teller.rng.random() < 0.3
    target, missing = Named(wanted, 0, many=many), Named(anchor, 0, asked=False)
    return teller.say_relation("absent", target, [missing], name, "anchor")


_REASONS = (_no_attribute, _no_relation, _no_count, _no_anchor)


def absent(teller: Teller) -> Sequence[Caption] | None:
    """The green star, where none is green; the star left of the circle, where none is; the three stars, where there are
    two; the star left of the circle, where there is no circle."""
    return _REASONS[int(teller.roll * len(_REASONS))](teller)
