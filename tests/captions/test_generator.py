"""Made captions: of every kind, tied to their words and things, with nothing in them that training must not show."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from detr_mini.captions.scenes import UNSEEN, draw_items
from detr_mini.captions.templates.generator import Captioner
from detr_mini.captions.templates.lexicon import PLURALS, SYNONYMS, UNSEEN_BESIDE, UNSEEN_LEADS, UNSEEN_PAIRS, plural
from detr_mini.captions.templates.relations import Relations
from detr_mini.captions.templates.scene import KINDS, Item
from detr_mini.phrases import Caption, Phrase

MEANING = {word: value for value, words in SYNONYMS.items() for word in words} | {
    "red": "red", "orange": "orange", "yellow": "yellow", "green": "green", "blue": "blue", "pink": "pink",
    "stripes": "striped", "dots": "dotted",
}  # fmt: skip
SINGULAR = {plural(word): word for words in SYNONYMS.values() for word in words}


@pytest.fixture(scope="module")
def scenes() -> list[list[Item]]:
    return [draw_items(0, "train", index, 64)[1] for index in range(60)]


def made(scenes: list[list[Item]], kind: str, **how: object) -> list[tuple[list[Item], Caption]]:
    rng = random.Random(kind)
    return [
        (items, caption)
        for items in scenes
        for caption in Captioner(items, 64, rng, forbidden=UNSEEN, **how).make(kind)  # type: ignore[arg-type]
    ]


def words(caption: Caption, phrase: Phrase) -> list[str]:
    return [word for begin, end in phrase.spans for word in caption.text[begin:end].lower().split()]


def described(items: list[Item], said: list[str]) -> set[int]:
    """The things that have what the words say."""
    wanted = {MEANING[SINGULAR.get(word, word)] for word in said} - {""}
    return {i for i, item in enumerate(items) if wanted <= {item.shape, item.color, item.size, item.texture}}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_made_and_its_words_fit_its_things(scenes: list[list[Item]], kind: str) -> None:
    captions = made(scenes, kind)
    assert len(captions) >= 10
    for items, caption in captions:
        assert caption.kind == kind
        spans = sorted(span for phrase in caption.phrases for span in phrase.spans)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
        assert any(phrase.asked for phrase in caption.phrases)
        assert sum(phrase.asked for phrase in caption.phrases) == 1 or kind == "list"
        for phrase in caption.phrases:
            fitting = described(items, words(caption, phrase))
            assert set(phrase.things) <= fitting, caption
            if not phrase.asked and kind not in ("chain", "order"):
                assert len(fitting) == len(phrase.things) <= 1  # an anchor is described alone
            if kind in ("attribute", "count", "list"):
                assert set(phrase.things) == fitting


@pytest.mark.parametrize("kind", KINDS)
def test_one_is_said_in_the_singular_and_several_in_the_plural(scenes: list[list[Item]], kind: str) -> None:
    for _, caption in made(scenes, kind):
        for phrase in caption.phrases:
            if phrase.things:
                nouns = [word for word in words(caption, phrase) if word in SINGULAR]
                assert bool(nouns) == (len(phrase.things) > 1), caption


@pytest.mark.parametrize("kind", ["order", "chain", "list"])
def test_captions_that_are_too_long_are_not_made_nor_one_of_a_pair(scenes: list[list[Item]], kind: str) -> None:
    lengths = sorted(len(caption.text) for _, caption in made(scenes, kind))
    most, rng = lengths[len(lengths) // 2], random.Random(kind)

    def fits(text: str) -> bool:
        return len(text) <= most

    found = [Captioner(items, 64, rng, forbidden=UNSEEN, fits=fits).make(kind) for items in scenes]
    assert {len(own) for own in found} <= {0, 2 if kind == "order" else 1}
    assert sum(map(len, found)) > 5
    assert all(fits(caption.text) for own in found for caption in own)


def test_absent_captions_name_nothing_for_four_reasons_evenly(scenes: list[list[Item]]) -> None:
    captions = [pair for _ in range(3) for pair in made(scenes, "absent")]
    counts = Counter(caption.detail for _, caption in captions)
    assert set(counts) == {"attribute", "relation", "count", "anchor"}
    assert max(counts.values()) < 2 * min(counts.values())
    for items, caption in captions:
        target = next(phrase for phrase in caption.phrases if phrase.asked)
        fitting = described(items, words(caption, target))
        assert not target.things
        if caption.detail == "attribute":
            assert not fitting
        if caption.detail == "anchor":
            assert not described(items, words(caption, caption.phrases[1]))


def test_pairs_of_order_use_the_same_words_for_different_things(scenes: list[list[Item]]) -> None:
    captions = [caption for _, caption in made(scenes * 4, "order")]
    pairs = list(zip(captions[::2], captions[1::2], strict=True))
    for one, other in pairs:
        said = [sorted(c.text.lower().rstrip(".?").replace(",", "").split()) for c in (one, other)]
        assert said[0] == said[1]
        assert one.text.lower().rstrip(".?") != other.text.lower().rstrip(".?")
        assert one.phrases[0].things != other.phrases[0].things
    assert sum(one.detail == "attributes" for one, _ in pairs) >= len(pairs) / 3


def test_relations_need_their_relation(scenes: list[list[Item]]) -> None:
    captions = made(scenes * 2, "relation")
    more = sum(len(described(items, words(c, c.phrases[0]))) > len(c.phrases[0].things) for items, c in captions)
    assert more > 0.7 * len(captions)  # the words before the relation fit others, too


def test_chains_are_of_two_and_three_relations_or_of_two_at_most(scenes: list[list[Item]]) -> None:
    assert {caption.detail for _, caption in made(scenes, "chain")} == {"2", "3"}
    assert {caption.detail for _, caption in made(scenes, "chain", longest_chain=2)} == {"2"}
    for _, caption in made(scenes, "chain"):
        assert len(caption.phrases) == int(caption.detail) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_training_shows_no_wording_that_is_kept_for_the_test(scenes: list[list[Item]], kind: str) -> None:
    for _, caption in made(scenes, kind):
        text = caption.text.lower()
        assert not text.startswith(UNSEEN_LEADS)
        assert not any(f" {words_} " in text for side in UNSEEN_BESIDE.values() for words_ in side)
        for phrase in caption.phrases:
            said = [SINGULAR.get(word, word) for word in words(caption, phrase)]
            assert not {(a, b) for a in said for b in said} & UNSEEN_PAIRS


@pytest.mark.parametrize("kind", KINDS)
def test_the_test_of_wordings_shows_something_new_each_time(scenes: list[list[Item]], kind: str) -> None:
    captions = made(scenes, kind, unseen=True)
    assert captions
    common = {caption.text.lower() for _ in range(3) for _, caption in made(scenes, kind)}
    assert not common & {caption.text.lower() for _, caption in captions}


def test_pairs_kept_from_training_are_in_no_word(scenes: list[list[Item]]) -> None:
    for _ in range(5):
        for _, caption in made(scenes, "absent"):
            for phrase in caption.phrases:
                said = {MEANING.get(SINGULAR.get(word, word)) for word in words(caption, phrase)}
                assert not any(color in said and shape in said for color, shape in UNSEEN), caption


def test_what_is_required_is_asked_for() -> None:
    rng, seen = random.Random(0), 0
    for index in range(40):
        items = draw_items(0, "test_composition", index, 64)[1]
        for kind in ("attribute", "relation", "list"):
            for caption in Captioner(items, 64, rng, required=UNSEEN).make(kind):
                asked = [i for phrase in caption.phrases if phrase.asked for i in phrase.things]
                assert {(items[i].color, items[i].shape) for i in asked} & UNSEEN
                seen += 1
    assert seen > 20


def test_the_same_random_state_makes_the_same_captions(scenes: list[list[Item]]) -> None:
    for kind in KINDS:
        one, other = (Captioner(scenes[1], 64, random.Random(5)).make(kind) for _ in range(2))
        assert one == other


def test_relations_are_those_of_the_boxes(scenes: list[list[Item]]) -> None:
    """Of the plainest pattern, read back word by word."""
    sides = {"left of": "left", "right of": "right", "above": "above", "below": "below"}
    read = 0
    for items, caption in made(scenes * 6, "relation"):
        for said, side in sides.items():
            target, anchor = caption.phrases[0], caption.phrases[-1]
            between = caption.text[target.spans[-1][1] : anchor.spans[0][0]].strip()
            if between in (f"{said} the", f"that is {said} the", f"that are {said} the"):
                relations, fitting = Relations(items, 64), described(items, words(caption, target))
                found = relations.beside(side, anchor.things[0], sum(1 << i for i in fitting))
                assert found == sum(1 << i for i in target.things)
                read += 1
    assert read > 20
    assert PLURALS["cross"] == "crosses"
