"""Captions as a model wants them: the same words are marked whatever splits the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.captions.mdetr_format import uninterrupted
from detr_mini.captions.token_targets import ANCHOR, BEGIN, INSIDE, OTHER, collate_captions
from detr_mini.models.grounded import phrases_of
from detr_mini.phrases import Caption, Phrase
from detr_mini.text.tokenizers import CharacterTokenizer, SubwordTokenizer, WordTokenizer

TEXT = "the star that is small left of the blue box"
CAPTION = Caption(TEXT, "relation", (Phrase(((4, 8), (17, 22)), (1,), True), Phrase(((35, 43),), (0,), False)))
LIST = Caption("a star, two boxes", "list", (Phrase(((2, 6),), (0,), True), Phrase(((12, 17),), (1, 2), True)))


@pytest.mark.parametrize("kind", [CharacterTokenizer, WordTokenizer, SubwordTokenizer])
def test_words_are_marked_and_tied_to_their_things(kind: type) -> None:
    tokenizer = kind.train([TEXT, LIST.text] * 3)
    captions = collate_captions(tokenizer, [[CAPTION], [LIST, CAPTION]], [2, 3])
    assert captions.caption_image.tolist() == [0, 1, 1]
    assert captions.records == (CAPTION, LIST, CAPTION)
    for row, caption in enumerate(captions.records):
        spans = captions.spans[row]
        said = dict.fromkeys((OTHER, BEGIN, INSIDE, ANCHOR), "")
        for (begin, end), tag in zip(spans, captions.tags[row].tolist(), strict=False):
            said[tag] += caption.text[begin:end]
        wanted = {True: "", False: ""}
        for phrase in caption.phrases:
            wanted[phrase.asked] += "".join(caption.text[b:e] for b, e in phrase.spans)
        assert sorted(said[BEGIN] + said[INSIDE]) == sorted(wanted[True])
        assert said[ANCHOR].replace(" ", "") == wanted[False].replace(" ", "")
        assert int((captions.tags[row] == BEGIN).sum()) == sum(phrase.asked for phrase in caption.phrases)
        assert (captions.tags[row] == -1).equal(captions.padding_mask[row])
        for thing in range(3):
            tokens = captions.token_map[row, thing].nonzero()[:, 0].tolist()
            own = [phrase for phrase in caption.phrases if thing in phrase.things]
            text = "".join(caption.text[slice(*spans[token])] for token in tokens).replace(" ", "")
            assert text == "".join(caption.text[b:e] for p in own for b, e in p.spans).replace(" ", "")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.lists(st.booleans(), min_size=3, max_size=3))
def test_the_tags_of_words_give_back_the_phrases_that_ask(owners: list[int], asked: list[bool]) -> None:
    """Word i belongs to phrase `owners[i]`, or to none for 3."""
    text = " ".join(f"w{word}" for word in range(len(owners)))
    spans = [[(3 * word, 3 * word + 2) for word, owner in enumerate(owners) if owner == n] for n in range(3)]
    phrases = [Phrase(tuple(own), (), ask) for own, ask in zip(spans, asked, strict=True) if own]
    kept = uninterrupted(phrases)
    assert {phrase.spans for phrase in kept} == {phrase.spans for phrase in phrases}
    assert any(phrase.asked for phrase in kept) == any(phrase.asked for phrase in phrases)
    silent = {phrase.spans for phrase in phrases if not phrase.asked}
    assert not any(phrase.asked for phrase in kept if phrase.spans in silent)
    captions = collate_captions(WordTokenizer.train([text]), [[Caption(text, "", tuple(kept))]], [0])
    found = [tuple(captions.spans[0][token] for token in own) for own in phrases_of(captions.tags[0].tolist())]
    assert sorted(found) == sorted(phrase.spans for phrase in kept if phrase.asked)


def test_an_image_without_captions_and_things_works() -> None:
    tokenizer = WordTokenizer.train([TEXT])
    captions = collate_captions(tokenizer, [[], [Caption(TEXT, "absent", (Phrase(((4, 8),), (), True),))]], [0, 0])
    assert captions.caption_image.tolist() == [1]
    assert not captions.token_map.any()
    assert collate_captions(tokenizer, [[]], [0]).token_ids.shape[0] == 0


def test_a_thing_that_its_own_image_does_not_have_is_refused_whatever_the_others_have() -> None:
    with pytest.raises(IndexError, match="an object that its image does not have"):
        collate_captions(WordTokenizer.train([TEXT]), [[CAPTION], []], [1, 5])
