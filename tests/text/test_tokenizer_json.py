"""tokenizer.json gives the library `tokenizers` our ids, and gives us our tokeniser back."""

from __future__ import annotations

import json
import random
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from detr_mini.text.tokenizer_json import read_json, to_json
from detr_mini.text.tokenizers import (
    KINDS,
    AnyTokenizer,
    CharacterTokenizer,
    TokenizerError,
    WordPieceTokenizer,
    lowered,
)

TEXTS = ["the small red star left of the blue circle", "two cups, a café; naïve dogs.", "οδος ist weiß 👍🏽 i̇"]
PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "the",
    "dog",
    "chase",
    "##d",
    "cat",
    "##s",
    "red",
    "star",
    "cafe",
    ".",
    "[",
]
TOKENIZERS: dict[str, AnyTokenizer] = {
    **{name: kind.train(TEXTS * 3, size=400) for name, kind in KINDS.items() if name != "pretrained"},
    "pretrained": WordPieceTokenizer(PIECES),
}
LIBRARY = {name: Tokenizer.from_str(to_json(own)) for name, own in TOKENIZERS.items()}
ALL = pytest.mark.parametrize("kind", TOKENIZERS)
WORDS = sorted({word for text in [*TEXTS, *PIECES] for word in text.split()})
PARTS = [*WORDS, " ", "  ", "\t", "\x1c", "\u3000", ",", ".", "'", "_", "zebra", "İ", "Σ", "ΟΔΟΣ", "é", "e\u0301",
         "ʰ", "\u00ad", "中文", "👩‍👩‍👧", "\x00", "[PAD]", "[BEGIN]", "STAR", "Café"]  # fmt: skip
# letters that are newer than Python's tables have a lower case in the library only
ASSIGNED = st.characters(exclude_categories=("Cs", "Cn"))


def same(kind: str, text: str) -> None:
    theirs, ours = LIBRARY[kind].encode(text), TOKENIZERS[kind].encode(lowered(text)).framed()
    assert tuple(theirs.ids) == ours.ids
    assert theirs.attention_mask == [1] * len(ours.ids)
    if kind != "pretrained":  # ours includes the accents behind a word piece
        assert tuple(theirs.offsets[1:-1]) == ours.spans[1:-1]


@ALL
@settings(deadline=None, max_examples=300)
@given(text=st.lists(st.sampled_from(PARTS)).map("".join) | st.lists(st.sampled_from(PARTS)).map(" ".join))
@example(text="")
@example(text="İSTANBUL'da İki Straße ΟΔΟΣ cup")
@example(text="ΑΣʰΣ ª")
def test_captions_have_the_same_ids_in_the_library(kind: str, text: str) -> None:
    same(kind, text)


@ALL
@settings(deadline=None, max_examples=200)
@given(text=st.text(ASSIGNED))
def test_any_text_has_the_same_ids_in_the_library(kind: str, text: str) -> None:
    same(kind, text)


@ALL
def test_hundreds_of_captions_and_every_character_have_the_same_ids(kind: str) -> None:
    draw = random.Random(0)
    for _ in range(500):
        same(kind, " ".join(draw.choices(WORDS, k=draw.randint(0, 12))))
    every = [chr(code) for code in range(0x30000) if unicodedata.category(chr(code)) not in ("Cs", "Cn")]
    for start in range(0, len(every), 97):
        same(kind, " ".join(every[start : start + 97]))


@ALL
def test_the_file_gives_our_tokeniser_back(kind: str) -> None:
    own = TOKENIZERS[kind]
    again = read_json(to_json(own), "a file")
    assert type(again) is type(own)
    assert len(again) == len(own)
    assert to_json(again) == to_json(own)
    for text in TEXTS:
        assert again.encode(text) == own.encode(text)


@ALL
def test_only_the_vocabulary_of_a_file_counts(kind: str) -> None:
    content = json.loads(to_json(TOKENIZERS[kind]))
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "x" * 1000}
    content["padding"] = {"strategy": {"Fixed": 10**9}}
    for text in TEXTS:
        assert read_json(json.dumps(content), "a file").encode(text) == TOKENIZERS[kind].encode(text)


def _with(**changed: Any) -> str:
    content = json.loads(to_json(TOKENIZERS["words"]))
    return json.dumps({**content, "model": {**content["model"], **changed}})


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "[" * 100_000, '{"model": 7}', _with(vocab={"a": 1}), _with(vocab={"a": "b"}), _with(vocab=[1]),
     _with(type="BPE")],
)  # fmt: skip
def test_any_other_file_is_refused_in_a_sentence(content: str) -> None:
    with pytest.raises(TokenizerError, match=r"^a file "):
        read_json(content, "a file")


def test_a_vocabulary_that_the_library_cannot_hold_is_refused_in_a_sentence() -> None:
    with pytest.raises(TokenizerError, match="cannot be written as tokenizer"):
        to_json(CharacterTokenizer(["\ud800"]))
