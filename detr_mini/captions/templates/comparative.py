"""Captions with relations to other objects, chains of relations, and pairs that differ in word order only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from detr_mini.captions.templates.builder import CaptionBuilder
from detr_mini.captions.templates.relations import SIDES, members
from detr_mini.captions.templates.sentence import Described, Sentence, Wanted
from detr_mini.phrases import Caption


def relation(builder: CaptionBuilder) -> Sequence[Caption] | None:
    name, count = builder.some_relation()
    anchors = builder.anchors(count)
    if anchors is None:
        return None
    wanted = builder.description_of(builder.any_object())
    candidates = builder.relations.fitting(wanted)
    if candidates.bit_count() < 2 and builder.rng.random() < 0.85:
        return None  # the words before the relation would be enough
    found = builder.related((name, tuple(members(a.things)[0] for a in anchors)), candidates)
    target = builder.target(wanted, found)
    if target is None or (name == "nearest" and candidates.bit_count() < 2):
        return None
    return builder.say_relation("relation", target, anchors, name)


def chain(builder: CaptionBuilder) -> Sequence[Caption] | None:
    if builder.roll < 0.15:
        return _both(builder)
    length = builder.longest_chain if builder.roll < 0.55 else 2
    linked = _linked(builder, [builder.rng.choice((*SIDES, "nearest")) for _ in range(length)])
    return None if linked is None else _say_chain(builder, "chain", *linked, detail=str(length))


def _linked(builder: CaptionBuilder, names: Sequence[str]) -> tuple[list[Described], list[str]] | None:
    """Objects that are each related to the next one, the target first; the last has only a description."""
    anchors = builder.anchors(1)
    if anchors is None:
        return None
    named = anchors
    for position, name in enumerate(reversed(names)):
        wanted = builder.description_of(builder.any_object())
        candidates = builder.relations.fitting(wanted)
        if candidates.bit_count() < 2 and (name == "nearest" or builder.rng.random() < 0.8):
            return None
        found = builder.related((name, members(named[0].things)), candidates)
        last = position == len(names) - 1
        if not found or (builder.too_many(found, 4) if last else found.bit_count() > 1):
            return None
        named = [Described(wanted, found, asked=last, many=found.bit_count() > 1), *named]
    return named, list(names)


def _say_chain(
    builder: CaptionBuilder,
    kind: str,
    named: Sequence[Described],
    names: Sequence[str],
    detail: str,
    pattern: str | None = None,
) -> list[Caption]:
    sentence = Sentence(builder.wording, list(named))
    pattern = pattern or builder.wording.pattern("relation")
    if len(names) > 2 and pattern.index("{a}") < pattern.index("{t}"):
        pattern = "{the} {t} {rel} {a}"
    builder.lead(sentence, pattern)

    def nested() -> None:
        for phrase in range(1, len(named)):
            if phrase > 1:
                sentence.add(builder.relation_words(names[phrase - 1]))
            sentence.add("the")
            sentence.describe(phrase)

    places: dict[str, Callable[[], None]] = {
        "the": partial(sentence.add, "the"),
        "t": partial(sentence.describe, 0),
        "rel": partial(sentence.add, builder.relation_words(names[0])),
        "a": nested,
    }
    sentence.follow(pattern, places)
    return [sentence.caption(kind, detail)]


def _both(builder: CaptionBuilder) -> Sequence[Caption] | None:
    anchors = builder.anchors(2)
    if anchors is None:
        return None
    names = builder.rng.sample(SIDES, 2)
    wanted = builder.description_of(builder.any_object())
    candidates = builder.relations.fitting(wanted)
    first, second = (
        builder.related((name, members(anchor.things)), candidates) for name, anchor in zip(names, anchors, strict=True)
    )
    if first is None or second is None or candidates.bit_count() < 2:
        return None
    target = builder.target(wanted, first & second, 4)
    if target is None:
        return None
    rel, rel2 = map(builder.relation_words, names)
    return builder.say("chain", builder.wording.pattern("both"), target, anchors, "2", rel=rel, rel2=rel2)


def order(builder: CaptionBuilder) -> Sequence[Caption] | None:
    if builder.lexicon.bare:
        return _swapped_relations(builder) if builder.rng.random() < 0.5 else _swapped_roles(builder)
    if builder.roll < 0.6:
        return _swapped_attributes(builder)
    return _swapped_relations(builder) if builder.roll < 0.85 else _swapped_roles(builder)


def _swapped_attributes(builder: CaptionBuilder) -> Sequence[Caption] | None:
    """The red star left of the blue circle; the blue star left of the red circle."""
    if len(builder.relations.items) < 2:
        return None
    for _ in range(8):
        a, b = builder.rng.sample(builder.relations.items, 2)
        attribute = builder.rng.choice(("color", "color", "size", "texture"))
        if a.shape != b.shape and getattr(a, attribute) != getattr(b, attribute):
            break
    else:
        return None
    wanted = [{"shape": item.shape, attribute: getattr(item, attribute)} for item in (a, b)]
    swapped = [
        {**wanted[0], attribute: wanted[1][attribute]},
        {**wanted[1], attribute: wanted[0][attribute]},
    ]
    return _pair(builder, "attributes", wanted, swapped, builder.rng.choice((*SIDES, "nearest")))


def _swapped_roles(builder: CaptionBuilder) -> Sequence[Caption] | None:
    """The star nearest to the circle; the circle nearest to the star."""
    if len(builder.possible_anchors) < 2:
        return None
    one, other = builder.rng.sample(builder.possible_anchors, 2)
    wanted = builder.only(one), builder.only(other)
    if wanted[0] is None or wanted[1] is None:
        return None
    both = [wanted[0], wanted[1]]
    return _pair(builder, "roles", both, both[::-1], "nearest")


def _pair(
    builder: CaptionBuilder, detail: str, wanted: Sequence[Wanted], swapped: Sequence[Wanted], name: str
) -> Sequence[Caption] | None:
    """Two sentences of the same words: (target, anchor) as in `wanted`, and as in `swapped`."""
    pair = []
    for asked, anchor in (wanted, swapped):
        fits = builder.relations.fitting(anchor)
        if fits.bit_count() != 1 or any((w.get("color"), w.get("shape")) in builder.forbidden for w in (asked, anchor)):
            return None
        found = builder.related((name, members(fits)), builder.relations.fitting(asked))
        if not found or found.bit_count() > 1:
            return None
        pair.append((Described(asked, found), Described(anchor, fits, asked=False)))
    if pair[0][0].things == pair[1][0].things:
        return None
    pattern, words = builder.wording.pattern("relation"), builder.relation_words(name)
    made = [builder.say("order", pattern, a, [b], detail, rel=words)[0] for a, b in pair]
    return made if _same_words(made) else None


def _swapped_relations(builder: CaptionBuilder) -> Sequence[Caption] | None:
    """The star left of the circle above the square; the star above the circle left of the square."""
    names, anchors = builder.rng.sample(SIDES, 2), builder.anchors(2)
    asked = builder.description_of(builder.any_object())
    if anchors is None:
        return None
    near, far = (members(anchor.things)[0] for anchor in anchors)
    pair = []
    for first, second in (names, names[::-1]):
        found = builder.related((first, (near,)), builder.relations.fitting(asked))
        if not found or found.bit_count() > 1 or not builder.related((second, (far,)), 1 << near):
            return None
        pair.append(([Described(asked, found), *anchors], (first, second)))
    if pair[0][0][0].things == pair[1][0][0].things:
        return None
    pattern = builder.wording.pattern("relation")
    made = [_say_chain(builder, "order", named, order, "roles", pattern)[0] for named, order in pair]
    return made if _same_words(made) else None


def _same_words(pair: Sequence[Caption]) -> bool:
    first, second = (sorted(caption.text.lower().rstrip(".?").replace(",", "").split()) for caption in pair)
    return first == second
