"""Whether a caption is true of exactly the objects that its phrases name: it is parsed and evaluated.

This is a second implementation, which shares no code with the templates that make captions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from detr_mini.captions.templates.scene import KINDS, Item
from detr_mini.phrases import Caption, Phrase
from oracles.captions.grammar import (
    MADE,
    Beside,
    Between,
    Nearest,
    NounPhrase,
    Nth,
    Restriction,
    Same,
    Vocabulary,
)
from oracles.captions.meaning import Reading, Scene, fits, places
from oracles.captions.parser import TOKEN, NotUnderstoodError, parse

DETAILS = {
    "chain": ("2", "3"),
    "order": ("roles", "attributes"),
    "absent": ("attribute", "relation", "count", "anchor"),
}
"""Of the kinds that have any."""


def faults(caption: Caption, items: Sequence[Item], side: float | int, vocabulary: Vocabulary = MADE) -> list[str]:
    """Every fault of a caption, a sentence each.

    A caption without faults is parsed and clear in its image. Its phrases are exactly its descriptions, each with
    exactly the objects that it names, and its kind and detail are those of the sentence. Phrases name `items` by index.
    `side` (pixels) is the length of which `scene.CLEAR_OFFSET` is a share.
    """
    try:
        asked = parse(caption.text, vocabulary)
    except NotUnderstoodError as error:
        return [str(error)]
    scene = Scene(items, side)
    targets = [scene.read(phrase, asked=True) for phrase in asked]
    found = [f"{caption.text!r}: {doubt}" for doubt in scene.doubts]
    found += _kind_faults(caption, asked)
    found += _absence_faults(caption, targets[0], scene.readings) if caption.kind == "absent" else []
    return found + list(_phrase_faults(caption, scene.readings, items))


def pair_faults(
    first: Caption, second: Caption, items: Sequence[Item], side: float | int, vocabulary: Vocabulary = MADE
) -> list[str]:
    """Every fault of an `order` pair: of each caption, and of the pair, whose same words must name different objects.

    The detail must be what is exchanged: descriptions or relations ("roles"), or adjectives alone ("attributes").
    """
    pair = first, second
    found = [fault for caption in pair for fault in faults(caption, items, side, vocabulary)]
    if found:
        return found
    texts = f"{first.text!r} and {second.text!r}"
    if {caption.kind for caption in pair} != {"order"} or first.detail != second.detail:
        found.append(f"{texts} are no pair of order of one detail")
    said = [sorted(filter(str.isalnum, TOKEN.findall(caption.text.casefold()))) for caption in pair]
    if said[0] != said[1]:
        found.append(f"{texts} are not made of the same words")
    if _asked_things(first) == _asked_things(second):
        found.append(f"{texts} name the same things")
    trees = [parse(caption.text, vocabulary)[0] for caption in pair]
    one, other = ([(d.shape, sorted(d.wanted)) for d in _described(tree)] for tree in trees)
    relations = [[(type(r).__name__, getattr(r, "side", "")) for r in _relations(tree)] for tree in trees]
    holds = {
        "roles": sorted(one) == sorted(other) and (one != other or relations[0] != relations[1]),
        "attributes": [shape for shape, _ in one] == [shape for shape, _ in other] and one != other,
    }
    if not holds.get(first.detail, False):
        found.append(f"{texts} do not differ in {first.detail!r}")
    return found


def _kind_faults(caption: Caption, asked: Sequence[NounPhrase]) -> Iterator[str]:
    kind, detail = kind_of(asked)
    wanted = {
        "order": ("relation", "chain"),
        "absent": {"attribute": ("attribute",), "count": ("count",)}.get(caption.detail, ("relation", "chain")),
    }.get(caption.kind, (caption.kind,))
    if caption.kind not in KINDS or kind not in wanted:
        yield f"{caption.text!r} is said to be of kind {caption.kind!r}, and reads as {kind or 'none of them'!r}"
    if caption.detail not in DETAILS.get(caption.kind, ("",)) or (caption.kind == "chain" and caption.detail != detail):
        yield f"{caption.text!r} has the detail {caption.detail!r}, which is not that of this {caption.kind!r}"


def kind_of(asked: Sequence[NounPhrase]) -> tuple[str, str]:
    """The kind of a sentence that names something, and of a chain its number of relations; ("", "") for a mixture."""
    if len(asked) > 1:
        plain = all(not phrase.restrictions and not phrase.unwanted for phrase in asked)
        return ("list" if plain else "", "")
    phrase, relations = asked[0], list(_relations(asked[0]))
    if not relations:
        return ("not" if phrase.unwanted else "count" if phrase.number else "attribute", "")
    if any(described.unwanted for described in _described(phrase)):
        return "", ""
    if all(isinstance(relation, Beside | Nearest | Between) for relation in relations):
        return ("relation", "") if len(relations) == 1 else ("chain", str(len(relations)))
    if len(relations) > 1:
        return "", ""
    return ("ordinal" if isinstance(relations[0], Nth) else "same" if isinstance(relations[0], Same) else "compare", "")


def _described(phrase: NounPhrase) -> Iterator[NounPhrase]:
    """A phrase and its anchors, and theirs."""
    yield phrase
    for restriction in phrase.restrictions:
        for anchor in restriction.anchors:
            yield from _described(anchor)


def _relations(phrase: NounPhrase) -> Iterator[Restriction]:
    for described in _described(phrase):
        yield from described.restrictions


def _asked_things(caption: Caption) -> set[int]:
    return {thing for phrase in caption.phrases if phrase.asked for thing in phrase.things}


def _absence_faults(caption: Caption, target: Reading, readings: Sequence[Reading]) -> Iterator[str]:
    """Whether the reason is the one that is claimed, and the only one."""
    anchors = [reading for reading in readings if not reading.asked]
    there = {thing for anchor in anchors for thing in anchor.held}
    holds = {
        "attribute": not target.fitting and not target.phrase.plural,
        "count": bool(target.fitting) and len(target.fitting) != target.phrase.number,
        "relation": all(anchor.things for anchor in anchors) and bool(target.fitting - there) and not target.held,
        "anchor": any(not anchor.fitting for anchor in anchors) and bool(target.fitting),
    }
    if not holds.get(caption.detail, False):
        yield (
            f"{caption.text!r} is said to name nothing because of its {caption.detail}; {places(target.fitting)} fit "
            f"the description, {places(target.held)} all of it"
        )


def _phrase_faults(caption: Caption, readings: Sequence[Reading], items: Sequence[Item]) -> Iterator[str]:
    """Whether the phrases are the sentence's descriptions, and tied to what these name."""
    left = {frozenset(i for span in reading.phrase.words for i in range(*span)): reading for reading in readings}
    for phrase in caption.phrases:
        said = " ... ".join(caption.text[begin:end] for begin, end in phrase.spans)
        reading = left.pop(_covered(caption.text, phrase), None)
        if reading is None:
            yield f"the spans {list(phrase.spans)} ({said!r}) are not the words of a description in {caption.text!r}"
            continue
        if phrase.asked != reading.asked:
            yield f"{said!r} is {'' if reading.asked else 'not '}asked for in {caption.text!r}, and marked otherwise"
        yield from _tie_faults(said, phrase, reading, items, absent=caption.kind == "absent")
    for reading in left.values():
        words = " ".join(caption.text[begin:end] for begin, end in reading.phrase.words)
        yield f"{words!r} in {caption.text!r} is a description without a phrase"


def _covered(text: str, phrase: Phrase) -> frozenset[int]:
    """The characters of a phrase without blanks between words; none where its spans are not sound."""
    characters: list[int] = []
    for begin, end in phrase.spans:
        if not 0 <= begin < end <= len(text) or text[begin].isspace() or text[end - 1].isspace():
            return frozenset()
        characters += [place for place in range(begin, end) if not text[place].isspace()]
    return frozenset(characters) if characters == sorted(set(characters)) else frozenset()


def _tie_faults(said: str, phrase: Phrase, reading: Reading, items: Sequence[Item], absent: bool) -> Iterator[str]:
    if len(set(phrase.things)) < len(phrase.things):
        yield f"{said!r} is tied to a thing twice: {list(phrase.things)}"
    for thing in sorted(set(phrase.things) - reading.things):
        if not 0 <= thing < len(items):
            yield f"{said!r} is tied to thing {thing}, of {len(items)}"
        elif not fits(items[thing], reading.phrase):
            yield f"{said!r} is tied to thing {thing}, which is a {_look(items[thing])}"
        elif thing not in reading.held:
            yield f"{said!r} is tied to thing {thing}, of which the rest of the sentence is not true"
        else:
            yield f"{said!r} is tied to thing {thing}, and {places(reading.held)} fit, which is another number"
    for thing in sorted(reading.things - set(phrase.things)):
        yield f"{said!r} names thing {thing}, and is not tied to it"
    if reading.asked and bool(reading.things) == absent:
        yield f"{said!r} names {places(reading.things)} in a caption that is {'' if absent else 'not '}absent"
    if not reading.asked and not reading.things and not absent:
        yield f"{said!r}, an anchor, names nothing"


def _look(item: Item) -> str:
    return " ".join(word for word in (item.size, item.texture, item.color, item.shape) if word)
