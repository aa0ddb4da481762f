"""Captions that no object of the scene answers, for four reasons."""

from __future__ import annotations

from collections.abc import Sequence

from detr_mini.captions.templates.builder import CaptionBuilder
from detr_mini.captions.templates.relations import SIDES, members
from detr_mini.captions.templates.sentence import Described
from detr_mini.phrases import Caption


def _no_attribute(builder: CaptionBuilder) -> Sequence[Caption] | None:
    wanted = builder.description_of_nothing()
    return None if wanted is None else builder.say_plain("absent", Described(wanted, 0), "attribute")


def _no_count(builder: CaptionBuilder) -> Sequence[Caption] | None:
    wanted = builder.description_of(builder.any_object())
    count = builder.relations.fitting(wanted).bit_count()
    claimed = count + builder.rng.choice((-2, -1, 1, 2))
    if not 2 <= claimed <= 6:
        return None
    return builder.say_plain("absent", Described(wanted, 0, many=True), "count", number=builder.number(claimed))


def _no_relation(builder: CaptionBuilder) -> Sequence[Caption] | None:
    name, count = builder.some_relation()
    anchors = builder.anchors(count)
    wanted = builder.description_of(builder.any_object())
    if anchors is None or name == "nearest":
        return None
    things = tuple(members(a.things)[0] for a in anchors)
    candidates = builder.relations.fitting(wanted)
    for item in things:
        candidates &= ~(1 << item)
    if not candidates or builder.related((name, things), candidates) != 0:
        return None
    return builder.say_relation("absent", Described(wanted, 0), anchors, name, "relation")


def _no_anchor(builder: CaptionBuilder) -> Sequence[Caption] | None:
    wanted, anchor = builder.description_of(builder.any_object()), builder.description_of_nothing()
    if anchor is None:
        return None
    name = builder.rng.choice((*SIDES, "nearest"))
    many = builder.relations.fitting(wanted).bit_count() > 1 and name != "nearest" and builder.rng.random() < 0.3
    target, missing = Described(wanted, 0, many=many), Described(anchor, 0, asked=False)
    return builder.say_relation("absent", target, [missing], name, "anchor")


_REASONS = (_no_attribute, _no_relation, _no_count, _no_anchor)


def absent(builder: CaptionBuilder) -> Sequence[Caption] | None:
    """The green star, where none is green; the star left of the circle, where none is; the three stars, where there are
    two; the star left of the circle, where there is no circle.
    """
    return _REASONS[int(builder.roll * len(_REASONS))](builder)
