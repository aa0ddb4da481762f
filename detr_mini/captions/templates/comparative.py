"""Sentences about things that stand in relations to others, chains of them, and pairs that differ in order only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from detr_mini.captions.templates.builder import Teller
from detr_mini.captions.templates.relations import SIDES, members
from detr_mini.captions.templates.sentence import Named, Sentence, Wanted
from detr_mini.structures import Caption


def relation(teller: Teller) -> Sequence[Caption] | None:
    name, count = teller.some_relation()
    anchors = teller.anchors(count)
    if anchors is None:
        return None
    wanted = teller.description_of(teller.thing())
    candidates = teller.facts.fitting(wanted)
    if candidates.bit_count() < 2 and teller.rng.random() < 0.85:
        return None  # the words before the relation would do
    found = teller.related((name, tuple(members(a.things)[0] for a in anchors)), candidates)
    target = teller.target(wanted, found)
    if target is None or (name == "nearest" and candidates.bit_count() < 2):
        return None
    return teller.say_relation("relation", target, anchors, name)


def chain(teller: Teller) -> Sequence[Caption] | None:
    if teller.roll < 0.15:
        return _both(teller)
    length = teller.longest_chain if teller.roll < 0.55 else 2
    linked = _linked(teller, [teller.rng.choice((*SIDES, "nearest")) for _ in range(length)])
    return None if linked is None else _say_chain(teller, "chain", *linked, detail=str(length))


def _linked(teller: Teller, names: Sequence[str]) -> tuple[list[Named], list[str]] | None:
    """Things that each stand in a relation to the next, the last described alone; outermost first."""
    anchors = teller.anchors(1)
    if anchors is None:
        return None
    named = anchors
    for position, name in enumerate(reversed(names)):
        wanted = teller.description_of(teller.thing())
        candidates = teller.facts.fitting(wanted)
        if candidates.bit_count() < 2 and (name == "nearest" or teller.rng.random() < 0.8):
            return None
        found = teller.related((name, members(named[0].things)), candidates)
        last = position == len(names) - 1
        if not found or (teller.too_many(found, 4) if last else found.bit_count() > 1):
            return None
        named = [Named(wanted, found, asked=last, many=found.bit_count() > 1), *named]
    return named, list(names)


def _say_chain(
    teller: Teller, kind: str, named: Sequence[Named], names: Sequence[str], detail: str, pattern: str | None = None
) -> list[Caption]:
    sentence = Sentence(teller.speaker, list(named))
    pattern = pattern or teller.speaker.pattern("relation")
    if len(names) > 2 and pattern.index("{a}") < pattern.index("{t}"):
        pattern = "{the} {t} {rel} {a}"
    teller.lead(sentence, pattern)

    def nested() -> None:
        for phrase in range(1, len(named)):
            if phrase > 1:
                sentence.add(teller.relation_words(names[phrase - 1]))
            sentence.add("the")
            sentence.describe(phrase)

    places: dict[str, Callable[[], None]] = {
        "the": partial(sentence.add, "the"),
        "t": partial(sentence.describe, 0),
        "rel": partial(sentence.add, teller.relation_words(names[0])),
        "a": nested,
    }
    sentence.follow(pattern, places)
    return [sentence.caption(kind, detail)]


def _both(teller: Teller) -> Sequence[Caption] | None:
    anchors = teller.anchors(2)
    if anchors is None:
        return None
    names = teller.rng.sample(SIDES, 2)
    wanted = teller.description_of(teller.thing())
    candidates = teller.facts.fitting(wanted)
    first, second = (
        teller.related((name, members(anchor.things)), candidates) for name, anchor in zip(names, anchors, strict=True)
    )
    if first is None or second is None or candidates.bit_count() < 2:
        return None
    target = teller.target(wanted, first & second, 4)
    if target is None:
        return None
    rel, rel2 = map(teller.relation_words, names)
    return teller.say("chain", teller.speaker.pattern("both"), target, anchors, "2", rel=rel, rel2=rel2)


def order(teller: Teller) -> Sequence[Caption] | None:
    if teller.lexicon.bare:
        return _swapped_relations(teller) if teller.rng.random() < 0.5 else _swapped_roles(teller)
    if teller.roll < 0.6:
        return _swapped_attributes(teller)
    return _swapped_relations(teller) if teller.roll < 0.85 else _swapped_roles(teller)


def _swapped_attributes(teller: Teller) -> Sequence[Caption] | None:
    """The red star left of the blue circle; the blue star left of the red circle."""
    for _ in range(8):
        a, b = teller.rng.sample(teller.facts.items, 2)
        attribute = teller.rng.choice(("color", "color", "size", "texture"))
        if a.shape != b.shape and getattr(a, attribute) != getattr(b, attribute):
            break
    else:
        return None
    wanted = [{"shape": item.shape, attribute: getattr(item, attribute)} for item in (a, b)]
    swapped = [
        {**wanted[0], attribute: wanted[1][attribute]},
        {**wanted[1], attribute: wanted[0][attribute]},
    ]
    return _pair(teller, "attributes", wanted, swapped, teller.rng.choice((*SIDES, "nearest")))


def _swapped_roles(teller: Teller) -> Sequence[Caption] | None:
    """The star nearest to the circle; the circle nearest to the star."""
    if len(teller.possible_anchors) < 2:
        return None
    one, other = teller.rng.sample(teller.possible_anchors, 2)
    wanted = teller.only(one), teller.only(other)
    if wanted[0] is None or wanted[1] is None:
        return None
    both = [wanted[0], wanted[1]]
    return _pair(teller, "roles", both, both[::-1], "nearest")


def _pair(
    teller: Teller, detail: str, wanted: Sequence[Wanted], swapped: Sequence[Wanted], name: str
) -> Sequence[Caption] | None:
    """Two sentences of the same words: (asked for, anchor) as `wanted`, and as `swapped`."""
    said = []
    for asked, anchor in (wanted, swapped):
        fits = teller.facts.fitting(anchor)
        if fits.bit_count() != 1 or any((w.get("color"), w.get("shape")) in teller.forbidden for w in (asked, anchor)):
            return None
        found = teller.related((name, members(fits)), teller.facts.fitting(asked))
        if not found or found.bit_count() > 1:
            return None
        said.append((Named(asked, found), Named(anchor, fits, asked=False)))
    if said[0][0].things == said[1][0].things:
        return None
    pattern, words = teller.speaker.pattern("relation"), teller.relation_words(name)
    made = [teller.say("order", pattern, a, [b], detail, rel=words)[0] for a, b in said]
    return made if _same_words(made) else None


def _swapped_relations(teller: Teller) -> Sequence[Caption] | None:
    """The star left of the circle above the square; the star above the circle left of the square."""
    names, anchors = teller.rng.sample(SIDES, 2), teller.anchors(2)
    asked = teller.description_of(teller.thing())
    if anchors is None:
        return None
    near, far = (members(anchor.things)[0] for anchor in anchors)
    said = []
    for first, second in (names, names[::-1]):
        found = teller.related((first, (near,)), teller.facts.fitting(asked))
        if not found or found.bit_count() > 1 or not teller.related((second, (far,)), 1 << near):
            return None
        said.append(([Named(asked, found), *anchors], (first, second)))
    if said[0][0][0].things == said[1][0][0].things:
        return None
    pattern = teller.speaker.pattern("relation")
    made = [_say_chain(teller, "order", named, order, "roles", pattern)[0] for named, order in said]
    return made if _same_words(made) else None


def _same_words(pair: Sequence[Caption]) -> bool:
    first, second = (sorted(caption.text.lower().rstrip(".?").replace(",", "").split()) for caption in pair)
    return first == second
