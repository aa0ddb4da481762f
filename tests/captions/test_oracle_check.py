"""The checker proves what is made, and refuses what was falsified.

Every falsification below is one that cannot leave a record true; why is said where it is made.
"""

from __future__ import annotations

import ast
import inspect
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.captions.captions_of_split import read_captions
from detr_mini.captions.made_dataset import captions_of_all_kinds, ensure_captioned, items_of
from detr_mini.captions.scenes import SPLITS, draw_items
from detr_mini.captions.templates.scene import KINDS, Item
from detr_mini.formats.coco import read_coco
from detr_mini.formats.columns import read_json
from detr_mini.phrases import Caption, Phrase
from oracles.captions import check, grammar, meaning, parser
from oracles.captions.check import faults, pair_faults
from oracles.captions.grammar import MADE
from training_parts import unchecked

SIDE = 128
Record = tuple[Caption, list[Item]]


def made(split: str, scenes: int, seed: int = 1) -> Iterator[tuple[list[Item], list[Caption]]]:
    for index in range(scenes):
        items = draw_items(seed, split, index, SIDE)[1]
        yield items, captions_of_all_kinds(items, SIDE, random.Random(f"{split} {index}"), split)


def pairs(captions: Sequence[Caption]) -> Iterator[tuple[Caption, Caption]]:
    ordered = [caption for caption in captions if caption.kind == "order"]
    yield from zip(ordered[::2], ordered[1::2], strict=True)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Of every kind and wording, pairs of order beside each other."""
    return [(caption, items) for split in SPLITS for items, found in made(split, 12) for caption in found]


@pytest.mark.parametrize("scenes", [30, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize("split", SPLITS)
def test_every_record_that_is_made_is_proven(split: str, scenes: int) -> None:
    counts = Counter[str]()
    with unchecked() if scenes > 30 else nullcontext():
        for items, captions in made(split, scenes):
            for caption in captions:
                assert faults(caption, items, SIDE) == [], (caption, items)
                counts[caption.kind] += 1
            for one, other in pairs(captions):
                assert pair_faults(one, other, items, SIDE) == []
    assert set(counts) == ({"chain"} if split == "test_length" else set(KINDS))


def test_every_record_of_a_written_file_is_proven(tmp_path: Path) -> None:
    ensure_captioned(tmp_path / "made", train=1, val=12, test=3, size=96, processes=1)
    checked = 0
    for split in SPLITS[1:]:
        path = tmp_path / "made" / "annotations" / f"{split}.json"
        things = read_json(path)["annotations"]
        found = read_captions(path.with_name(f"{split}_captions.json"), read_coco(path, path.parents[1] / split))
        for image_id, captions in found.items():
            items = items_of([thing for thing in things if thing["image_id"] == image_id])
            for caption in captions:
                assert faults(caption, items, 96) == []
                checked += 1
    assert checked > 150


def test_the_checker_shares_no_code_with_what_makes_captions() -> None:
    imported = set[str]()
    for module in (check, grammar, meaning, parser):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.ImportFrom):
                imported |= {f"{node.module}.{name.name}" for name in node.names}
            elif isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
    allowed = "oracles.captions", "detr_mini.captions.templates.scene", "detr_mini.phrases"
    assert all(name.startswith(allowed) for name in imported if name.startswith(("detr_mini", "oracles")))
    assert "oracles.captions.grammar.MADE" in imported


def reworded(caption: Caption, words: Mapping[str, str], phrase: Phrase | None = None) -> Caption:
    """The caption with words exchanged, in one phrase or everywhere; spans follow."""
    text, grown = "", dict[int, int]()
    within = [(0, len(caption.text))] if phrase is None else phrase.spans
    for piece in re.finditer(r"\w+|\W+", caption.text):
        word = piece.group()
        inside = any(begin <= piece.start() and piece.end() <= end for begin, end in within)
        new = words.get(word.lower(), word) if inside else word
        grown[piece.start()] = len(text)
        text += new
        grown[piece.end()] = len(text)
    phrases = tuple(
        replace(each, spans=tuple((grown[begin], grown[end]) for begin, end in each.spans)) for each in caption.phrases
    )
    return replace(caption, text=text, phrases=phrases)


def with_phrase(caption: Caption, place: int, phrase: Phrase) -> Caption:
    return replace(caption, phrases=(*caption.phrases[:place], phrase, *caption.phrases[place + 1 :]))


def other_words() -> dict[str, list[str]]:
    """Each adjective and noun to those that mean another value of the same attribute."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for word, (attribute, value) in {**MADE.adjectives, **MADE.features}.items():
        feature = "with " if word in MADE.features else ""
        kinds.setdefault(feature + attribute, []).append((word, value))
    for noun, (plural, shape) in MADE.nouns.items():
        if shape:
            kinds.setdefault("noun", []).append((noun, shape))
            kinds.setdefault("nouns", []).append((plural, shape))
    return {
        word: [other for other, changed in words if changed != value]
        for words in kinds.values()
        for word, value in words
    }


OTHER = other_words()
OPPOSITE = {"left": "right", "above": "below", "over": "under", "higher": "lower", "up": "down", "beneath": "above"}
OPPOSITE |= {after: before for before, after in OPPOSITE.items() if before != "above"} | {"below": "above"}


def things_dropped(caption: Caption, items: list[Item], rng: random.Random) -> Iterator[Caption]:
    """A phrase names exactly its things: one fewer is false."""
    for place, phrase in enumerate(caption.phrases):
        if phrase.things:
            yield with_phrase(caption, place, replace(phrase, things=phrase.things[1:]))


def things_added(caption: Caption, items: list[Item], rng: random.Random) -> Iterator[Caption]:
    """And one more, too; as is one that is not there."""
    for place, phrase in enumerate(caption.phrases):
        for thing in rng.sample(range(len(items) + 1), 2):
            yield with_phrase(caption, place, replace(phrase, things=(*phrase.things, thing)))


def spans_moved(caption: Caption, items: list[Item], rng: random.Random) -> Iterator[Caption]:
    """A description's words are all covered, and nothing else."""
    for place, phrase in enumerate(caption.phrases):
        (begin, end), *rest = phrase.spans
        for span in ((begin + 1, end + 1), (begin + 1, end), (begin, end - 1), (begin - 1, end), (begin, 10**4)):
            yield with_phrase(caption, place, replace(phrase, spans=(span, *rest)))
        yield replace(caption, phrases=(*caption.phrases[:place], *caption.phrases[place + 1 :]))


def kind_changed(caption: Caption, items: list[Item], rng: random.Random) -> Iterator[Caption]:
    """Every kind is another sentence, has another detail, or names things where `absent` does not."""
    for kind in set(KINDS) - {caption.kind}:
        yield replace(caption, kind=kind)


def detail_changed(caption: Caption, items: list[Item], rng: random.Random) -> Iterator[Caption]:
    """Those of a chain and of an absent caption exclude each other; other kinds but `order` have none."""
    for detail in {"attribute", "relation", "count", "anchor", "2", "3", ""} - {caption.detail}:
        yield replace(caption, detail=detail)


def asked_changed(caption: Caption, items: list[Item], rng: random.Random) -> Iterator[Caption]:
    for place, phrase in enumerate(caption.phrases):
        yield with_phrase(caption, place, replace(phrase, asked=not phrase.asked))


def absence_claimed(caption: Caption, items: list[Item], rng: random.Random) -> Iterator[Caption]:
    """What names something is not absent, for no reason."""
    if caption.kind != "absent":
        phrases = tuple(replace(phrase, things=() if phrase.asked else phrase.things) for phrase in caption.phrases)
        for detail in ("attribute", "relation", "count", "anchor"):
            yield replace(caption, kind="absent", detail=detail, phrases=phrases)


def word_changed(caption: Caption, items: list[Item], rng: random.Random) -> Iterator[Caption]:
    """Things that are red, or stars, are nothing else: with another word their phrase names others, or none."""
    for phrase in caption.phrases:
        for begin, end in phrase.spans if phrase.things else ():
            word = rng.choice(caption.text[begin:end].lower().split())
            if word in OTHER:
                yield reworded(caption, {word: rng.choice(OTHER[word])}, phrase)


def number_changed(caption: Caption, items: list[Item], rng: random.Random) -> Iterator[Caption]:
    """Of a description alone exactly as many fit as it says."""
    numbers = ("two", "three", "four", "five", "six")
    if caption.kind in ("count", "list"):
        for word in set(re.findall(r"\w+", caption.text.lower())) & set(numbers):
            yield reworded(caption, {word: rng.choice([other for other in numbers if other != word])})


def relation_turned(caption: Caption, items: list[Item], rng: random.Random) -> Iterator[Caption]:
    """What is left of an anchor is not right of it, and an anchor's things are part of the record."""
    if caption.kind in ("relation", "chain", "order"):
        turned = reworded(caption, OPPOSITE)
        if turned.text != caption.text:
            yield turned


FALSIFICATIONS: tuple[Callable[[Caption, list[Item], random.Random], Iterator[Caption]], ...] = (
    things_dropped, things_added, spans_moved, kind_changed, detail_changed, asked_changed, absence_claimed,
    word_changed, number_changed, relation_turned,
)  # fmt: skip


@pytest.mark.parametrize("falsified", FALSIFICATIONS)
def test_a_falsified_record_is_refused(
    records: list[Record], falsified: Callable[[Caption, list[Item], random.Random], Iterator[Caption]]
) -> None:
    rng, refused = random.Random(0), 0
    for caption, items in rng.sample(records, len(records)):
        for false in falsified(caption, items, rng):
            if false != caption:
                assert faults(false, items, SIDE), (false, caption, items)
                refused += 1
        if refused > 500:
            break
    assert refused > 50


def test_a_moved_box_is_noticed(records: list[Record]) -> None:
    """What lies where its anchor lies is on no side of it; what is as large is neither larger nor smaller."""
    beside = re.compile(r"\b(left|right|above|over|higher|up|below|under|beneath|lower|down)\b")
    refused = 0
    for caption, items in records:
        positional = caption.kind == "relation" and len(caption.phrases) == 2 and beside.search(caption.text.lower())
        if positional or (caption.kind == "compare" and len(caption.phrases) == 2):
            target, anchor = caption.phrases
            moved = list(items)
            moved[target.things[0]] = replace(items[target.things[0]], box=items[anchor.things[0]].box)
            assert faults(caption, moved, SIDE), (caption, moved)
            refused += 1
    assert refused > 20


def test_boxes_given_to_other_things_are_mostly_noticed(records: list[Record]) -> None:
    rng, shuffled, refused = random.Random(0), 0, 0
    for caption, items in records:
        if caption.kind in ("relation", "chain", "order", "ordinal", "compare"):
            boxes = rng.sample([item.box for item in items], len(items))
            mixed = [replace(item, box=box) for item, box in zip(items, boxes, strict=True)]
            shuffled += 1
            refused += bool(faults(caption, mixed, SIDE))
    assert refused > 0.5 * shuffled > 50  # of two things each is as often left of the other


def test_a_repainted_thing_is_noticed(records: list[Record]) -> None:
    """Who asks for red things, and says so, does not mean one that was made green."""
    refused = 0
    for caption, items in records:
        for phrase in caption.phrases:
            said = " ".join(caption.text[begin:end] for begin, end in phrase.spans).split()
            for thing in phrase.things:
                if items[thing].color in said:
                    painted = replace(items[thing], color="green" if items[thing].color != "green" else "red")
                    assert faults(caption, [*items[:thing], painted, *items[thing + 1 :]], SIDE)
                    refused += 1
        if refused > 300:
            break
    assert refused > 100


def test_a_mirrored_scene_needs_mirrored_words(records: list[Record]) -> None:
    """And nothing else changes; nor does the order in which the things stand."""
    turn = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
    for caption, items in records[::3]:
        mirrored = []
        for item in items:
            x, y, w, h = item.box
            mirrored.append(replace(item, box=(SIDE - x - w, y, w, h)))
        order = random.Random(len(caption.text)).sample(range(len(items)), len(items))
        phrases = tuple(
            replace(phrase, things=tuple(order.index(thing) for thing in phrase.things)) for phrase in caption.phrases
        )
        turned = reworded(replace(caption, phrases=phrases), turn)
        assert faults(turned, [mirrored[place] for place in order], SIDE) == []


def test_pairs_of_order_differ_in_what_they_name_and_not_in_their_words(records: list[Record]) -> None:
    ordered = [(caption, items) for caption, items in records if caption.kind == "order"]
    seen = Counter[str]()
    for (one, items), (other, _) in zip(ordered[::2], ordered[1::2], strict=True):
        assert pair_faults(one, other, items, SIDE) == []
        assert any("same things" in fault for fault in pair_faults(one, one, items, SIDE))
        assert any("same words" in fault for fault in pair_faults(one, reworded(other, {"the": "a"}), items, SIDE))
        assert pair_faults(one, replace(other, detail="attributes" if one.detail == "roles" else "roles"), items, SIDE)
        seen[one.detail] += 1
    assert min(seen["roles"], seen["attributes"]) > 2


LANGUAGE = (
    "the", "a", "two", "star", "stars", "red", "blue", "non", "-", "small", "that", "is", "are", "not", "left", "of",
    "right", "above", "nearest", "to", "between", "and", "also", "both", ",", ":", "first", "from", "same", "as",
    "with", "stripes", "largest", "larger", "than", "leftmost", "find", "where", "please", ".", "one", "in", "colour",
)  # fmt: skip


@settings(max_examples=40)
@given(st.one_of(st.text(), st.lists(st.sampled_from(LANGUAGE), max_size=14).map(" ".join)))
def test_no_words_without_phrases_are_proven(text: str) -> None:
    items = [Item("star", "red", "small", "plain", (0, 0, 9, 9)), Item("star", "blue", "large", "plain", (50, 9, 9, 9))]
    for kind in KINDS:
        assert faults(Caption(text, kind, ()), items, SIDE)
