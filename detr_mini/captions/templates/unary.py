"""Sentences about things by themselves: what they are, how many, where in a row, how large, like which other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from detr_mini.captions.templates.builder import Teller
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
from detr_mini.captions.templates.sentence import Named, Sentence
from detr_mini.structures import Caption


def attribute(teller: Teller) -> Sequence[Caption] | None:
    wanted = teller.description_of(teller.thing())
    target = teller.target(wanted, teller.facts.fitting(wanted))
    return None if target is None else teller.say_plain("attribute", target)


def count(teller: Teller) -> Sequence[Caption] | None:
    wanted = teller.description_of(teller.thing())
    found = teller.facts.fitting(wanted)
    if not 2 <= found.bit_count() <= 6:
        return None
    return teller.say_plain("count", Named(wanted, found, many=True), number=teller.number(found.bit_count()))


def listed(teller: Teller) -> Sequence[Caption] | None:
    chosen: list[Named] = []
    taken = 0
    for _ in range(12):
        wanted = teller.description_of(teller.thing())
        found = teller.facts.fitting(wanted)
        if found & taken or found.bit_count() > 6:
            continue
        taken |= found
        chosen.append(Named(wanted, found, many=found.bit_count() > 1))
        if len(chosen) == 4 or (len(chosen) > 1 and teller.rng.random() < 0.4):
            break
    if len(chosen) < 2:
        return None
    sentence = Sentence(teller.speaker, chosen)
    teller.lead(sentence)
    for phrase, one in enumerate(chosen):
        if phrase:
            sentence.add("and" if phrase == len(chosen) - 1 else ",", glue=phrase < len(chosen) - 1)
        adjectives, noun = teller.speaker.description(one.wanted)
        first = (adjectives or [noun])[0]
        sentence.add(NUMBERS[one.things.bit_count()] if one.many else article(first))
        sentence.describe(phrase)
    return [sentence.caption("list")]


def ordinal(teller: Teller) -> Sequence[Caption] | None:
    wanted = teller.description_of(teller.thing())
    candidates = teller.facts.fitting(wanted)
    side = teller.rng.choice(SIDES)
    order = teller.facts.ranked(side, candidates) if candidates.bit_count() > 1 else None
    if order is None:
        return None
    place = teller.rng.randrange(min(len(order), len(ORDINALS)))
    target = Named(wanted, 1 << order[place])
    if place == 0 and teller.rng.random() < 0.6:
        pattern = teller.speaker.pattern("foremost")
        if "farthest" in pattern or "furthest" in pattern:
            pattern = pattern.replace("the {side}", {"above": "the top", "below": "the bottom"}.get(side, "the {side}"))
        words = teller.rng.choice(FOREMOST[side])
        return teller.say("ordinal", pattern, target, foremost=words, side=FROM[side])
    pattern = teller.speaker.pattern("ordinal")
    return teller.say("ordinal", pattern, target, nth=ORDINALS[place], side=FROM[side])


def compare(teller: Teller) -> Sequence[Caption] | None:
    wanted = teller.description_of(teller.thing())
    candidates, how = teller.facts.fitting(wanted), teller.rng.choice(("larger", "smaller"))
    smaller = how == "smaller"
    if teller.rng.random() < 0.4:
        target = teller.target(wanted, teller.facts.largest(candidates, smaller), 1)
        words = teller.rng.choice(SUPERLATIVES[how])
        return (
            None if target is None else teller.say("compare", teller.speaker.pattern("superlative"), target, most=words)
        )
    anchors = teller.anchors(1)
    if anchors is None or candidates.bit_count() < 2:
        return None
    target = teller.target(wanted, teller.facts.larger(members(anchors[0].things)[0], candidates, smaller), 4)
    words = teller.rng.choice(LARGER[how])
    return (
        None if target is None else teller.say("compare", teller.speaker.pattern("compare"), target, anchors, rel=words)
    )


def same(teller: Teller) -> Sequence[Caption] | None:
    anchors = teller.anchors(1)
    attribute = teller.rng.choice(("color", "color", "shape", "size", "texture"))
    wanted = {name: value for name, value in teller.description_of(teller.thing()).items() if name != attribute}
    candidates = teller.facts.fitting(wanted)
    if anchors is None or candidates.bit_count() < 2:
        return None
    target = teller.target(wanted, teller.facts.same(attribute, members(anchors[0].things)[0], candidates), 4)
    words = teller.rng.choice(SAME[attribute])
    return (
        None if target is None else teller.say("same", teller.speaker.pattern("same"), target, anchors, attribute=words)
    )


def negated(teller: Teller) -> Sequence[Caption] | None:
    thing = teller.thing()
    wanted = teller.description_of(thing)
    attribute = teller.rng.choice(("color", "color", "size", "texture"))
    wanted.pop(attribute, None)
    candidates = teller.facts.fitting(wanted)
    value = getattr(teller.facts.items[teller.rng.choice(members(candidates))], attribute)
    target = teller.target(wanted, candidates & ~teller.facts.having(attribute, value))
    if target is None or target.things == candidates:
        return None
    negated = teller.speaker.description({attribute: value})[0][0]
    pattern = teller.speaker.pattern("not")
    if "non-" in pattern and set(target.wanted) - {"shape"}:
        return None
    sentence = Sentence(teller.speaker, [target])
    teller.lead(sentence, pattern)
    places = {
        "the": partial(sentence.add, "the"),
        "t": partial(sentence.describe, 0),
        "n": partial(sentence.add, negated, glue="non-" in pattern),
    }
    sentence.follow(pattern, places)
    return [sentence.caption("not")]
