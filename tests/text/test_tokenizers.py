"""Tokenisers: text to tokens and back, with the span of every token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detr_mini.text.tokenizers import (
    BEGIN,
    END,
    KINDS,
    PAD,
    UNKNOWN,
    AnyTokenizer,
    CharacterTokenizer,
    Encoding,
    SubwordTokenizer,
    TokenizerError,
    WordPieceTokenizer,
    WordTokenizer,
    load_tokenizer,
    pad,
    tokens_of,
)

QUICK = settings(deadline=None, max_examples=60)
TEXTS = ["the dog chased the cat", "the cat sees a red  star", "café, cafe\u0301 and naïve dogs", "two 👍🏽 thumbs"]
TRAINED = {name: kind for name, kind in KINDS.items() if name != "pretrained"}
PIECES = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "dog", "chase", "##d", "cat", "see", "##s", "a", "red", "star", "cafe",
    "and", "naive", "two", "[", "]", "pad", ".",
]  # fmt: skip
TOKENIZERS: dict[str, AnyTokenizer] = {
    **{name: kind.train(TEXTS * 3, size=400) for name, kind in TRAINED.items()},
    "pretrained": WordPieceTokenizer(PIECES),
}
ALL = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
EXACT = pytest.mark.parametrize("tokenizer", [TOKENIZERS["characters"], TOKENIZERS["subwords"]], ids=["c", "s"])
HARD = [
    example("e\u0301"),
    example("👩‍👩‍👧"),
    example("[PAD] [UNK]"),
    example("a  b\t\n"),
    example("\x00"),
    example(" a"),
]


def hard(test: object) -> object:
    for decorate in HARD:
        test = decorate(test)  # type: ignore[arg-type]
    return test


@EXACT
@hard
@QUICK
@given(st.text())
def test_decoding_restores_any_text(tokenizer: AnyTokenizer, text: str) -> None:
    encoding = tokenizer.encode(text)
    assert tokenizer.decode(encoding.ids) == text
    assert tokenizer.decode(encoding.framed().ids) == text
    assert all(0 <= token < len(tokenizer) for token in encoding.ids)


@EXACT
@hard
@QUICK
@given(st.text())
def test_spans_cover_the_text_and_only_overlap_within_a_character(tokenizer: AnyTokenizer, text: str) -> None:
    reached = 0
    for begin, end in tokenizer.encode(text).spans:
        assert begin == reached or begin == reached - 1  # the one character whose bytes two tokens share
        assert end >= max(reached, begin + 1)
        reached = end
    assert reached == len(text)


@hard
@QUICK
@given(st.text())
def test_words_cover_everything_but_blanks(text: str) -> None:
    tokenizer = TOKENIZERS["words"]
    covered = [False] * len(text)
    for begin, end in tokenizer.encode(text).spans:
        assert begin < end
        for place in range(begin, end):
            assert not covered[place]
            covered[place] = True
    assert all(known or character.isspace() for known, character in zip(covered, text, strict=True))


MARKED = [
    ("the red star", "red"), ("the red  star", "red  star"), ("un café noir", "café"),
    ("un cafe\u0301 noir", "cafe\u0301"), ("a 👍🏽 here", "👍🏽"), ("👩👩👧 and dog", "👩👩👧"),
    ("dogs dog", "dog"), ("the cat.", "cat"), ("北京 star", "北京"), ("x — y", "—"),
]  # fmt: skip


@EXACT
@pytest.mark.parametrize(("text", "marked"), MARKED)
def test_marked_tokens_decode_to_exactly_the_marked_words(tokenizer: AnyTokenizer, text: str, marked: str) -> None:
    begin = text.rindex(marked)
    encoding = tokenizer.encode(text)
    chosen = tokens_of(encoding, [(begin, begin + len(marked))])
    assert tokenizer.decode(encoding.ids[place] for place in chosen) == marked


@pytest.mark.parametrize(("text", "marked"), MARKED)
@pytest.mark.parametrize("name", ["words", "pretrained"])
def test_marked_words_span_exactly_the_marked_characters(name: str, text: str, marked: str) -> None:
    begin = text.rindex(marked)
    encoding = TOKENIZERS[name].encode(text)
    chosen = tokens_of(encoding, [(begin, begin + len(marked))])
    assert (encoding.spans[chosen[0]][0], encoding.spans[chosen[-1]][1]) == (begin, begin + len(marked))


@ALL
def test_no_mark_and_no_text_select_no_token(tokenizer: AnyTokenizer) -> None:
    assert tokens_of(tokenizer.encode("the dog"), []) == []
    assert tokens_of(tokenizer.encode(""), [(0, 3)]) == []


@ALL
def test_a_frame_is_never_marked(tokenizer: AnyTokenizer) -> None:
    encoding = tokenizer.encode("dog").framed()
    assert tokens_of(encoding, [(0, 3)]) == list(range(1, len(encoding.ids) - 1))


def test_unknown_words_are_listed_and_encoded_as_unknown() -> None:
    tokenizer = TOKENIZERS["words"]
    encoding = tokenizer.encode("the zebra, chased")
    assert encoding.ids[1] == UNKNOWN
    assert encoding.spans == ((0, 3), (4, 9), (9, 10), (11, 17))
    assert tokenizer.decode([BEGIN, *encoding.ids, END, PAD]) == "the [UNK] , chased"


@hard
@QUICK
@given(st.text())
def test_word_pieces_never_overlap_and_cover_all_letters(text: str) -> None:
    reached, covered = 0, set[int]()
    for begin, end in TOKENIZERS["pretrained"].encode(text).spans:
        assert reached <= begin < end <= len(text)
        reached = end
        covered |= set(range(begin, end))
    assert all(place in covered for place, character in enumerate(text) if character.isalpha())


def test_words_are_split_into_the_longest_pieces_regardless_of_case_and_accents() -> None:
    tokenizer = TOKENIZERS["pretrained"]
    encoding = tokenizer.encode("The CAFÉS, dogd zebra")
    assert encoding.spans == ((0, 3), (4, 8), (8, 9), (9, 10), (11, 14), (14, 15), (16, 21))
    assert tokenizer.decode([BEGIN, *encoding.ids, END, PAD]) == "the cafes [UNK] dogd [UNK]"


def test_frequent_text_has_fewer_subwords_than_characters_and_more_than_words() -> None:
    text = TEXTS[0] + " chasing"
    words, subwords, characters = (len(TOKENIZERS[k].encode(text).ids) for k in ("words", "subwords", "characters"))
    assert words < subwords < characters


@ALL
def test_text_that_looks_like_a_special_token_is_encoded_as_text(tokenizer: AnyTokenizer) -> None:
    ids = tokenizer.encode("[PAD] [BEGIN] [END]").ids
    assert not {PAD, BEGIN, END} & set(ids)


@ALL
def test_the_vocabulary_is_at_most_as_large_as_requested(tokenizer: AnyTokenizer) -> None:
    assert len(tokenizer) <= 400


@ALL
def test_a_saved_tokeniser_is_loaded_unchanged(tokenizer: AnyTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "t.json")
    loaded = load_tokenizer(tmp_path / "t.json", tokenizer.kind)
    assert type(loaded) is type(tokenizer)
    assert len(loaded) == len(tokenizer)
    for text in [*TEXTS, "zebra 🦓 über"]:
        assert loaded.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("name", TRAINED)
def test_training_twice_gives_the_same_tokeniser(name: str) -> None:
    tokenizer, again = TOKENIZERS[name], KINDS[name].train(TEXTS * 3, size=400)
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_files_without_a_tokeniser_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    with pytest.raises(TokenizerError, match=r"t\.json: No such file"):
        load_tokenizer(path)
    TOKENIZERS["subwords"].save(path)
    with pytest.raises(TokenizerError, match="holds a tokeniser of subwords, not of words"):
        load_tokenizer(path, "words")
    whole = path.read_text("utf-8")
    path.write_text(whole[: len(whole) // 2], "utf-8")
    with pytest.raises(TokenizerError, match="is not a tokeniser file, or it is damaged"):
        load_tokenizer(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TokenizerError, match="is not a tokeniser file, or it is damaged"):
        load_tokenizer(path)
    for content in ({"kind": "syllables"}, [1, 2], {"words": []}):
        path.write_text(json.dumps(content))
        with pytest.raises(
            TokenizerError, match="does not hold a tokeniser; the kinds are characters, words, subwords"
        ):
            load_tokenizer(path)
    for content in (
        {"kind": "words"},
        {"kind": "words", "words": [1]},
        {"kind": "subwords", "tokenizer": {"model": 3}},
        {"kind": "pretrained", "pieces": ["the", "dog"]},
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(TokenizerError, match="is damaged"):
            load_tokenizer(path)


def test_a_lone_surrogate_is_refused_with_its_position() -> None:
    for kind in ("words", "subwords"):
        with pytest.raises(TokenizerError, match=r"a lone surrogate \(half a character\) at 2"):
            TOKENIZERS[kind].encode("ab\ud800c")
    assert CharacterTokenizer(()).decode(CharacterTokenizer(()).encode("ab\ud800c").ids) == "ab\ud800c"


def test_only_padding_is_marked_as_padding() -> None:
    ids, mask = pad([Encoding((5, 6, 7), ((0, 1),) * 3), Encoding((8,), ((0, 1),)), Encoding((), ())])
    assert ids.tolist() == [[5, 6, 7], [8, PAD, PAD], [PAD, PAD, PAD]]
    assert mask.tolist() == [[False] * 3, [False, True, True], [True] * 3]
    assert pad([])[0].shape == (0, 0)
    assert ids.dtype == torch.long


def test_subwords_and_words_can_be_trained_on_empty_text() -> None:
    assert SubwordTokenizer.train([]).decode(SubwordTokenizer.train([]).encode("dog").ids) == "dog"
    assert WordTokenizer.train([]).encode("dog").ids == (UNKNOWN,)


def test_a_vocabulary_is_trained_on_real_captions(shared_data: Callable[[str], Path]) -> None:
    file = shared_data("coco_mini") / "annotations" / "captions_train2017.json"
    texts = [annotation["caption"] for annotation in json.loads(file.read_text())["annotations"]]
    tokenizer = SubwordTokenizer.train(texts, size=2000)
    assert 1000 < len(tokenizer) <= 2000
    encodings = [tokenizer.encode(text) for text in texts]
    assert all(tokenizer.decode(encoding.ids) == text for encoding, text in zip(encodings, texts, strict=True))
    assert sum(len(encoding.ids) for encoding in encodings) < 0.5 * sum(map(len, texts))
