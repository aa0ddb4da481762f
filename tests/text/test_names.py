"""Category names as captions: the span of each name, and as many names per caption as fit."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.errors import UserError
from detr_mini.text.names import AT_ONCE, FRAME, checked_names, listed, names_in, passes
from detr_mini.text.tokenizers import CharacterTokenizer, SubwordTokenizer, WordTokenizer

NAME = st.text(st.characters(categories=["L", "N", "Zs", "P"]), min_size=1, max_size=12).filter(lambda n: n.strip())
TEXTS = ["person. hot dog. cupboard."] * 3
TOKENIZERS = [kind.train(TEXTS, size=400) for kind in (CharacterTokenizer, WordTokenizer, SubwordTokenizer)]


@given(st.lists(NAME, max_size=8))
def test_each_span_covers_its_own_name_and_nothing_else(names: list[str]) -> None:
    text, spans = listed(names)
    assert [text[begin:end] for begin, end in spans] == names
    assert all(one[1] < other[0] for one, other in pairwise(spans))


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: t.kind)
@given(names=st.lists(NAME, min_size=1, max_size=40), most=st.integers(18 + FRAME, 60))
def test_passes_contain_every_name_once_in_order_and_fit(tokenizer: WordTokenizer, names: list[str], most: int) -> None:
    try:
        together = passes(names, tokenizer, most)
    except UserError:  # a name of many bytes
        assert any(len(tokenizer.encode(f" {name.lower()}.").ids) + FRAME > most for name in names)
        return
    assert [index for own in together for index in own] == list(range(len(names)))
    for own in together:
        assert 1 <= len(own) <= AT_ONCE
        text, _ = listed([names[index].lower() for index in own])
        assert len(tokenizer.encode(text).framed().ids) <= most


def test_an_error_lists_all_names_that_are_too_long() -> None:
    with pytest.raises(
        UserError, match="the model takes at most 8 tokens; these names are too long: 'cupboard', 'lampshade'"
    ):
        passes(["cupboard", "cup", "lampshade"], TOKENIZERS[0], 8)


@pytest.mark.parametrize(
    ("caption", "names"),
    [
        ("person. dog.", ["person", "dog"]),
        ("Person . hot dog.cart. dog", ["Person", "hot dog.cart", "dog"]),
        ("person.. dog.", ["person.", "dog"]),
        ("the star left of the blue box.", None),
        ("the red circle", None),
        ("a box of 3.5 by 2.0", None),
        ("...", None),
    ],
)
def test_a_list_is_two_or_more_names_separated_by_periods(caption: str, names: list[str] | None) -> None:
    assert names_in(caption) == names


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ([], "the list of names is empty"),
        (["dog", "  "], "name 2 of 2 is empty"),
        (["dog", "cat", " Dog"], "'Dog' is given twice"),
    ],
)
def test_empty_lists_empty_names_and_repeated_names_are_refused(names: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        checked_names(names)
