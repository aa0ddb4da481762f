"""Captions of one set of objects: attributes, number, order in a row, size, likeness to another object."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from detr_mini.captions.templates.builder import CaptionBuilder
from detr_mini.captions.templates.lexicon import (
    FOREMOST,
    FROM,
    LARGER,
    NUMBERS,
    ORDINALS,
    SAME,
    SUPERLATIVES,
    article,
)
from detr_mini.captions.templates.relations import SIDES, members
from detr_mini.captions.templates.sentence import Described, Sentence
from detr_mini.phrases import Caption


def attribute(builder: CaptionBuilder) -> Sequence[Caption] | None:
    wanted = builder.description_of(builder.any_object())
    target = builder.target(wanted, builder.relations.fitting(wanted))
    return None if target is None else builder.say_plain("attribute", target)


def count(builder: CaptionBuilder) -> Sequence[Caption] | None:
    wanted = builder.description_of(builder.any_object())
    found = builder.relations.fitting(wanted)
    if not 2 <= found.bit_count() <= 6:
        return None
    return builder.say_plain("count", Described(wanted, found, many=True), number=builder.number(found.bit_count()))


def listed(builder: CaptionBuilder) -> Sequence[Caption] | None:
    chosen: list[Described] = []
    taken = 0
    for _ in range(12):
        wanted = builder.description_of(builder.any_object())
        found = builder.relations.fitting(wanted)
        if found & taken or found.bit_count() > 6:
            continue
        taken |= found
        chosen.append(Described(wanted, found, many=found.bit_count() > 1))
        if len(chosen) == 4 or (len(chosen) > 1 and builder.rng.random() < 0.4):
            break
    if len(chosen) < 2:
        return None
    sentence = Sentence(builder.wording, chosen)
    builder.lead(sentence)
    for phrase, one in enumerate(chosen):
        if phrase:
            sentence.add("and" if phrase == len(chosen) - 1 else ",", glue=phrase < len(chosen) - 1)
        adjectives, noun = builder.wording.description(one.wanted)
        first = (adjectives or [noun])[0]
        sentence.add(NUMBERS[one.things.bit_count()] if one.many else article(first))
        sentence.describe(phrase)
    return [sentence.caption("list")]


def ordinal(builder: CaptionBuilder) -> Sequence[Caption] | None:
    wanted = builder.description_of(builder.any_object())
    candidates = builder.relations.fitting(wanted)
    side = builder.rng.choice(SIDES)
    order = builder.relations.ranked(side, candidates) if candidates.bit_count() > 1 else None
    if order is None:
        return None
    place = builder.rng.randrange(min(len(order), len(ORDINALS)))
    target = Described(wanted, 1 << order[place])
    if place == 0 and builder.rng.random() < 0.6:
        pattern = builder.wording.pattern("foremost")
        if "farthest" in pattern or "furthest" in pattern:
            pattern = pattern.replace("the {side}", {"above": "the top", "below": "the bottom"}.get(side, "the {side}"))
        words = builder.rng.choice(FOREMOST[side])
        return builder.say("ordinal", pattern, target, foremost=words, side=FROM[side])
    pattern = builder.wording.pattern("ordinal")
    return builder.say("ordinal", pattern, target, nth=ORDINALS[place], side=FROM[side])


def compare(builder: CaptionBuilder) -> Sequence[Caption] | None:
    wanted = builder.description_of(builder.any_object())
    candidates, how = builder.relations.fitting(wanted), builder.rng.choice(("larger", "smaller"))
    smaller = how == "smaller"
    if builder.rng.random() < 0.4:
        target = builder.target(wanted, builder.relations.largest(candidates, smaller), 1)
        words = builder.rng.choice(SUPERLATIVES[how])
        if target is None:
            return None
        return builder.say("compare", builder.wording.pattern("superlative"), target, most=words)
    anchors = builder.anchors(1)
    if anchors is None or candidates.bit_count() < 2:
        return None
    target = builder.target(wanted, builder.relations.larger(members(anchors[0].things)[0], candidates, smaller), 4)
    words = builder.rng.choice(LARGER[how])
    if target is None:
        return None
    return builder.say("compare", builder.wording.pattern("compare"), target, anchors, rel=words)


def same(builder: CaptionBuilder) -> Sequence[Caption] | None:
    anchors = builder.anchors(1)
    attribute = builder.rng.choice(("color", "color", "shape", "size", "texture"))
    wanted = {name: value for name, value in builder.description_of(builder.any_object()).items() if name != attribute}
    candidates = builder.relations.fitting(wanted)
    if anchors is None or candidates.bit_count() < 2:
        return None
    target = builder.target(wanted, builder.relations.same(attribute, members(anchors[0].things)[0], candidates), 4)
    words = builder.rng.choice(SAME[attribute])
    if target is None:
        return None
    return builder.say("same", builder.wording.pattern("same"), target, anchors, attribute=words)


def negated(builder: CaptionBuilder) -> Sequence[Caption] | None:
    item = builder.any_object()
    wanted = builder.description_of(item)
    attribute = builder.rng.choice(("color", "color", "size", "texture"))
    wanted.pop(attribute, None)
    candidates = builder.relations.fitting(wanted)
    value = getattr(builder.relations.items[builder.rng.choice(members(candidates))], attribute)
    target = builder.target(wanted, candidates & ~builder.relations.having(attribute, value))
    if target is None or target.things == candidates:
        return None
    negated = builder.wording.description({attribute: value})[0][0]
    pattern = builder.wording.pattern("not")
    if "non-" in pattern and set(target.wanted) - {"shape"}:
        return None
    sentence = Sentence(builder.wording, [target])
    builder.lead(sentence, pattern)
    places = {
        "the": partial(sentence.add, "the"),
        "t": partial(sentence.describe, 0),
        "n": partial(sentence.add, negated, glue="non-" in pattern),
    }
    sentence.follow(pattern, places)
    return [sentence.caption("not")]
