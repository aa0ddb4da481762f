"""A tokeniser as `tokenizer.json`, the file of the library `tokenizers`, for programs without this package.

The file holds all that happens to a caption: lower case, splitting, ids, and [BEGIN] and [END] around them. Its ids are
those of `tokenizer.encode(lowered(text)).framed()`. Both directions are here: `read_json` takes the vocabulary alone,
so that the rest of a stranger's file has no effect.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from detr_mini.text.tokenizers import (
    BEGIN,
    END,
    SPECIAL,
    UNKNOWN,
    WORDS,
    AnyTokenizer,
    CharacterTokenizer,
    SubwordTokenizer,
    TokenizerError,
    WordPieceTokenizer,
    WordTokenizer,
    tokenizer_of,
)

_BLANKS = Regex(r"[\s\x{1c}-\x{1f}]")
"""What `str.isspace` calls blank."""
_LETTER = r"[\p{Cased}&&\P{Case_Ignorable}]"
_LAST_SIGMA = Regex(rf"{_LETTER}\p{{Case_Ignorable}}*\KΣ(?!\p{{Case_Ignorable}}*{_LETTER})")
"""At the end of a word, the lower case of a capital sigma has a form of its own (Unicode, "Final_Sigma")."""


def to_json(tokenizer: AnyTokenizer) -> str:
    """The content of `tokenizer.json`. TokenizerError for a vocabulary that the library cannot hold."""
    try:
        if isinstance(tokenizer, WordTokenizer):
            made = _words(tokenizer)
        elif isinstance(tokenizer, CharacterTokenizer):
            made = _characters(tokenizer)
        elif isinstance(tokenizer, SubwordTokenizer):
            made = _subwords(tokenizer)
        else:
            made = Tokenizer(models.WordPiece(_ids(tokenizer.pieces), unk_token=SPECIAL[UNKNOWN]))
            made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        more = [normalizers.BertNormalizer()] if isinstance(tokenizer, WordPieceTokenizer) else []
        made.normalizer = normalizers.Sequence([*_lower_case(), *more])
        made.post_processor = processors.TemplateProcessing(
            single=f"{SPECIAL[BEGIN]} $A {SPECIAL[END]}", special_tokens=[(SPECIAL[k], k) for k in (BEGIN, END)]
        )
        return str(made.to_str(pretty=True))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"the tokeniser cannot be written as tokenizer.json ({error}); train it again") from error


def read_json(content: str, where: str) -> AnyTokenizer:
    """The tokeniser that `to_json` wrote. `where`: its file, for errors. TokenizerError for any other file."""
    try:
        model = json.loads(content)["model"]
        kind, vocabulary = model["type"], model["vocab"]
        if {*vocabulary.values()} != {*range(len(vocabulary))}:
            raise ValueError("its ids are not 0, 1, 2, ...")
        pieces: list[str] = sorted(vocabulary, key=vocabulary.__getitem__)
        own = pieces[len(SPECIAL) :]
        state: dict[str, Any]
        if kind == "WordLevel":
            state = {"kind": WordTokenizer.kind, "words": own}
        elif kind == "WordPiece":
            state = {"kind": WordPieceTokenizer.kind, "pieces": pieces}
        elif model["byte_fallback"]:
            state = {"kind": CharacterTokenizer.kind, "characters": own[256:]}
        else:
            shifted = {piece: index for index, piece in enumerate(own)}
            state = {"kind": SubwordTokenizer.kind, "tokenizer": {"model": {**model, "vocab": shifted}}}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TokenizerError(f"{where} is no tokenizer.json of 'detr-mini export' ({error}); export again") from error
    return tokenizer_of(state, where)


def _lower_case() -> list[Any]:
    """`lowered`, one step after the other."""
    return [normalizers.Replace("İ", "i"), normalizers.Replace(_LAST_SIGMA, "ς"), normalizers.Lowercase()]


def _words(tokenizer: WordTokenizer) -> Tokenizer:
    made = Tokenizer(models.WordLevel(_ids([*SPECIAL, *tokenizer.words]), unk_token=SPECIAL[UNKNOWN]))
    made.pre_tokenizer = pre_tokenizers.Sequence([WORDS, pre_tokenizers.Split(_BLANKS, "removed")])
    return made


def _characters(tokenizer: CharacterTokenizer) -> Tokenizer:
    """Pair encoding without a pair: characters, and the bytes of those that it does not know."""
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *tokenizer.characters]
    made = Tokenizer(models.BPE(_ids(pieces), [], byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return made


def _subwords(tokenizer: SubwordTokenizer) -> Tokenizer:
    """Its own program, with ids behind the special tokens."""
    state = tokenizer.state()["tokenizer"]
    shifted = {piece: len(SPECIAL) + index for piece, index in state["model"]["vocab"].items()}
    state["model"]["vocab"] = {**_ids(SPECIAL), **shifted}
    return Tokenizer.from_str(json.dumps(state))


def _ids(pieces: Any) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(pieces)}
