"""Captions made worse on purpose keep what is true: only their words, or their picture, change."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from detr_mini.captions.perturb import foreign, misspelt, perturbed, shuffled
from detr_mini.phrases import Caption, Phrase

STAR = Caption(
    "the red star left of the big box",
    "relation",
    (Phrase(((4, 12),), (2,), True), Phrase(((25, 32),), (0,), False)),
)
HEART = Caption("a heart right of the disc", "relation", (Phrase(((2, 7),), (5,), True),))
TWO = Caption("a heart, a disc", "list", (Phrase(((2, 7),), (5,), True), Phrase(((11, 15),), (1,), True)))


def words_of(caption: Caption, phrase: Phrase) -> Counter[str]:
    return Counter(" ".join(caption.text[begin:end] for begin, end in phrase.spans).split())


@given(st.integers(0, 999))
def test_shuffled_words_are_the_same_words_and_phrases_keep_theirs(seed: int) -> None:
    made = shuffled(STAR, random.Random(seed))
    assert Counter(made.text.split()) == Counter(STAR.text.split())
    for before, after in zip(STAR.phrases, made.phrases, strict=True):
        assert words_of(made, after) == words_of(STAR, before)
        assert (after.things, after.asked) == (before.things, before.asked)


@given(st.integers(0, 999))
def test_a_typing_error_exchanges_two_letters_of_one_word(seed: int) -> None:
    made = misspelt(STAR, random.Random(seed))
    wrong = [i for i, (one, other) in enumerate(zip(STAR.text, made.text, strict=True)) if one != other]
    assert len(wrong) == 2
    assert wrong[1] == wrong[0] + 1
    assert made.text[wrong[0]] + made.text[wrong[1]] == STAR.text[wrong[1]] + STAR.text[wrong[0]]
    assert made.phrases == STAR.phrases
    assert misspelt(Caption("a b", "list", ()), random.Random(seed)).text == "a b"


def test_a_foreign_sentence_is_of_the_kind_and_its_answer_is_this_pictures() -> None:
    made = foreign(STAR, [TWO, STAR, HEART])
    assert made is not None
    assert made.text == HEART.text
    assert [(p.spans, p.things) for p in made.phrases] == [(((2, 7),), (2,))]
    assert foreign(STAR, [TWO, STAR]) is None
    assert foreign(TWO, [HEART]) is None


def test_each_image_gets_its_own_disorder_and_the_next_ones_sentences() -> None:
    source = [[STAR], [HEART], [TWO]].__getitem__
    assert [c.text for c in perturbed("foreign", 3, 0, source)(0)] == [HEART.text]
    assert perturbed("foreign", 3, 0, source)(2) == []
    first = perturbed("shuffled", 3, 0, source)(0)
    assert first == perturbed("shuffled", 3, 0, source)(0)
    assert len({perturbed("shuffled", 3, seed, source)(0)[0].text for seed in range(9)}) > 1
