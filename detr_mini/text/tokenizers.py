"""Tokenisers: text split into characters, words or subwords, each token with its span of characters.

Each kind is a class with `train(texts)`, `encode`, `decode`, `state` and `save`. A saved file records its kind.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from detr_mini.errors import UserError
from detr_mini.text.minilm import minilm_pieces

SPECIAL = ("[PAD]", "[UNK]", "[BEGIN]", "[END]")
PAD, UNKNOWN, BEGIN, END = range(len(SPECIAL))
"""No text is encoded to these ids: the text "[PAD]" is five characters, not padding."""

WORDS = pre_tokenizers.Split(Regex(r"[\p{L}\p{M}\p{N}_]+|[^\p{L}\p{M}\p{N}_]"), "isolated")
"""Words, including combining accents; any other character, blanks included, stands alone."""


class TokenizerError(UserError):
    """A tokeniser file or a text cannot be used."""


@dataclass(frozen=True)
class Encoding:
    """The tokens of a text: their ids, and the [begin, end) characters of each, in order."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def framed(self) -> Encoding:
        """With [BEGIN] and [END] around it, whose spans are empty."""
        last = self.spans[-1][1] if self.spans else 0
        return Encoding((BEGIN, *self.ids, END), ((0, 0), *self.spans, (last, last)))


def lowered(text: str) -> str:
    """`text` in lower case with the same number of characters, so that its spans are valid in `text`.

    Python's own lower case of "İ", and of no other character, has two characters.
    """
    return text.replace("İ", "i").lower()


class CharacterTokenizer:
    """One token per character. Characters that are unseen in training become one token per byte of UTF-8."""

    kind: ClassVar[str] = "characters"

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = tuple(characters)
        first = len(SPECIAL) + 256
        self._ids = {character: first + index for index, character in enumerate(self.characters)}

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int = 4096) -> CharacterTokenizer:
        """The most frequent characters, for a vocabulary of at most `size` entries."""
        return cls(_most_frequent((c for text in texts for c in text), size - len(SPECIAL) - 256))

    def __len__(self) -> int:
        return len(SPECIAL) + 256 + len(self.characters)

    def encode(self, text: str) -> Encoding:
        """Encode any Unicode text."""
        ids, spans = [], []
        for place, character in enumerate(text):
            known = self._ids.get(character)
            own = [len(SPECIAL) + byte for byte in character.encode("utf-8", "surrogatepass")]
            for token in own if known is None else [known]:
                ids.append(token)
                spans.append((place, place + 1))
        return Encoding(tuple(ids), tuple(spans))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the tokens; special tokens are left out."""
        first, out = len(SPECIAL) + 256, bytearray()
        for token in ids:
            if token >= first:
                out += self.characters[token - first].encode("utf-8", "surrogatepass")
            elif token >= len(SPECIAL):
                out.append(token - len(SPECIAL))
        try:
            return out.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # the bytes of an incomplete character
            return out.decode("utf-8", "replace")

    def state(self) -> dict[str, Any]:
        """Plain values, for `tokenizer_of`."""
        return {"kind": self.kind, "characters": list(self.characters)}

    def save(self, path: str | Path) -> None:
        """Write a JSON file, for `load_tokenizer`."""
        _write(path, self.state())

    @classmethod
    def _of(cls, content: dict[str, Any]) -> CharacterTokenizer:
        return cls(_strings(content["characters"]))


class WordTokenizer:
    """One token per word or punctuation mark. Words that are unseen in training are [UNK]. Blanks are not tokens."""

    kind: ClassVar[str] = "words"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._ids = {word: len(SPECIAL) + index for index, word in enumerate(self.words)}

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int = 10_000) -> WordTokenizer:
        """The most frequent words, for a vocabulary of at most `size` entries."""
        words = (word for text in texts for word, _ in _split(text) if not word.isspace())
        return cls(_most_frequent(words, size - len(SPECIAL)))

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.words)

    def encode(self, text: str) -> Encoding:
        """Encode any Unicode text."""
        parts = [(word, span) for word, span in _split(text) if not word.isspace()]
        return Encoding(tuple(self._ids.get(word, UNKNOWN) for word, _ in parts), tuple(span for _, span in parts))

    def unknown(self, text: str) -> list[str]:
        """The words of a text that are unseen in training, each once."""
        words = (word for word, _ in _split(text) if not word.isspace())
        return [word for word in dict.fromkeys(words) if word not in self._ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The words, separated by blanks, with [UNK] for unknown ones; other special tokens are left out."""
        known = [SPECIAL[UNKNOWN] if token == UNKNOWN else self.words[token - len(SPECIAL)]
                 for token in ids if token == UNKNOWN or token >= len(SPECIAL)]  # fmt: skip
        return " ".join(known)

    def state(self) -> dict[str, Any]:
        """Plain values, for `tokenizer_of`."""
        return {"kind": self.kind, "words": list(self.words)}

    def save(self, path: str | Path) -> None:
        """Write a JSON file, for `load_tokenizer`."""
        _write(path, self.state())

    @classmethod
    def _of(cls, content: dict[str, Any]) -> WordTokenizer:
        return cls(_strings(content["words"]))


class SubwordTokenizer:
    """Byte-level byte-pair encoding inside words (Sennrich et al. 2016; Radford et al. 2019), by `tokenizers`.

    Blanks are separate tokens, so no token crosses the border of a word, and a marked word has its own tokens.
    """

    kind: ClassVar[str] = "subwords"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int = 4096) -> SubwordTokenizer:
        """Merge the most frequent pairs until the vocabulary has `size` entries or no pair occurs twice."""
        tokenizer = cls._empty()
        trainer = trainers.BpeTrainer(
            vocab_size=size - len(SPECIAL),
            min_frequency=2,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @staticmethod
    def _empty() -> Tokenizer:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [WORDS, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    def __len__(self) -> int:
        return len(SPECIAL) + int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> Encoding:
        """Encode any Unicode text; TokenizerError for a lone surrogate. All tokens of one character have its span."""
        _check_unicode(text)
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return Encoding(tuple(len(SPECIAL) + token for token in found.ids), tuple(found.offsets))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the tokens; special tokens are left out."""
        own = [token - len(SPECIAL) for token in ids if token >= len(SPECIAL)]
        return str(self._tokenizer.decode(own, skip_special_tokens=False))

    def state(self) -> dict[str, Any]:
        """Plain values, for `tokenizer_of`."""
        return {"kind": self.kind, "tokenizer": json.loads(self._tokenizer.to_str())}

    def save(self, path: str | Path) -> None:
        """Write a JSON file, for `load_tokenizer`."""
        _write(path, self.state())

    @classmethod
    def _of(cls, content: dict[str, Any]) -> SubwordTokenizer:
        # only the vocabulary comes from the file: other parts could pad a text to any length, or never stop matching
        own = json.loads(cls._empty().to_str())
        return cls(Tokenizer.from_str(json.dumps({**own, "model": content["tokenizer"]["model"]})))


class WordPieceTokenizer:
    """The word pieces of a pretrained encoder (Wu et al. 2016), without accents and case, as in BERT.

    A word that cannot be split into pieces is [UNK]. Blanks and control characters are not tokens.
    """

    kind: ClassVar[str] = "pretrained"

    def __init__(self, pieces: Sequence[str]) -> None:
        """`pieces` by id: ## marks those that continue a word, and the first four are `SPECIAL`."""
        if len(pieces) < len(SPECIAL) or pieces[UNKNOWN] != SPECIAL[UNKNOWN]:
            raise ValueError("its first pieces are not the special tokens")
        self.pieces = tuple(pieces)
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        self._tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL[UNKNOWN]))
        self._tokenizer.normalizer = normalizers.BertNormalizer()
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    @classmethod
    def train(cls, texts: Iterable[str], *, weights: str = "packaged") -> WordPieceTokenizer:
        """The published vocabulary of all-MiniLM-L6-v2; `texts` are not read. `weights`: see `minilm`."""
        return cls(minilm_pieces(weights))

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> Encoding:
        """Encode any Unicode text; TokenizerError for a lone surrogate. A span includes the accents after it."""
        _check_unicode(text)
        found = self._tokenizer.encode(text, add_special_tokens=False)
        spans = []
        for begin, end in found.offsets:
            while end < len(text) and unicodedata.category(text[end]) == "Mn":
                end += 1
            spans.append((begin, end))
        return Encoding(tuple(found.ids), tuple(spans))

    def decode(self, ids: Iterable[int]) -> str:
        """The words, separated by blanks, with [UNK] for unknown ones; other special tokens are left out."""
        known = [self.pieces[token] for token in ids if token == UNKNOWN or token >= len(SPECIAL)]
        return " ".join(known).replace(" ##", "")

    def state(self) -> dict[str, Any]:
        """Plain values, for `tokenizer_of`."""
        return {"kind": self.kind, "pieces": list(self.pieces)}

    def save(self, path: str | Path) -> None:
        """Write a JSON file, for `load_tokenizer`."""
        _write(path, self.state())

    @classmethod
    def _of(cls, content: dict[str, Any]) -> WordPieceTokenizer:
        return cls(_strings(content["pieces"]))


AnyTokenizer = CharacterTokenizer | WordTokenizer | SubwordTokenizer | WordPieceTokenizer
KINDS: dict[str, type[AnyTokenizer]] = {
    kind.kind: kind for kind in (CharacterTokenizer, WordTokenizer, SubwordTokenizer, WordPieceTokenizer)
}


def load_tokenizer(path: str | Path, kind: str | None = None) -> AnyTokenizer:
    """The tokeniser that `save` wrote. `kind`: the expected kind, if any.

    TokenizerError if the file is missing or damaged, or holds another kind.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror}; give the file that a tokeniser was saved to") from None
    except ValueError:
        raise TokenizerError(f"{path} is not a tokeniser file, or it is damaged; train the tokeniser again") from None
    return tokenizer_of(content, str(path), kind)


def tokenizer_of(content: Any, where: str, kind: str | None = None) -> AnyTokenizer:
    """The tokeniser of a file's or a checkpoint's `content`. `where`: its source, for the error message."""
    held = content.get("kind") if isinstance(content, dict) else None
    if held not in KINDS:
        raise TokenizerError(f"{where} does not hold a tokeniser; the kinds are {', '.join(KINDS)}")
    if kind is not None and held != kind:
        raise TokenizerError(f"{where} holds a tokeniser of {held}, not of {kind}")
    try:
        return KINDS[held]._of(content)
    except Exception as error:  # the library raises bare Exception for a damaged vocabulary
        raise TokenizerError(f"{where} is damaged ({error}); train the tokeniser again") from None


def pad(encodings: Sequence[Encoding]) -> tuple[Int[Tensor, "c t"], Bool[Tensor, "c t"]]:
    """The ids of several texts as one tensor, and where it is padding (True)."""
    longest = max((len(e.ids) for e in encodings), default=0)
    ids = torch.full((len(encodings), longest), PAD)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids, dtype=torch.long)
    return ids, ids == PAD


def tokens_of(encoding: Encoding, marked: Sequence[tuple[int, int]]) -> list[int]:
    """The indices of the tokens that share a character with one of the `marked` [begin, end) spans of the text."""
    spans = zip(range(len(encoding.ids)), encoding.spans, strict=False)
    return [i for i, (begin, end) in spans if any(begin < last and end > first for first, last in marked)]


def _split(text: str) -> list[tuple[str, tuple[int, int]]]:
    _check_unicode(text)
    return [(text[begin:end], (begin, end)) for _, (begin, end) in WORDS.pre_tokenize_str(text)]


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(f"the text has a lone surrogate (half a character) at {error.start}: {text!r}") from None


def _most_frequent(texts: Iterable[str], count: int) -> list[str]:
    ranked = sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))
    return [text for text, _ in ranked[: max(count, 0)]]


def _strings(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("its vocabulary is not a list of strings")
    return values


def _write(path: str | Path, content: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(content), "utf-8")
