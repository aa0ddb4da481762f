"""A sentence under construction: its words, and which of them belong to which phrase."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from detr_mini.captions.templates.lexicon import (
    PATTERNS,
    UNSEEN_PAIRS,
    UNSEEN_PATTERNS,
    VERBS,
    Lexicon,
)
from detr_mini.captions.templates.relations import members
from detr_mini.phrases import Caption, Phrase

Wanted = Mapping[str, str]
"""The attributes and values of a description."""


@dataclass(frozen=True)
class Described:
    """A description, and the objects that it names in its sentence."""

    wanted: Wanted
    things: int
    """A bit set, see `Relations`."""
    asked: bool = True
    many: bool = False
    """Whether it is in the plural."""


class Wording:
    """Chooses words and patterns. It chooses once per value, so that both sentences of a pair use the same words."""

    def __init__(self, rng: random.Random, lexicon: Lexicon, unseen: bool = False) -> None:
        """`unseen`: also use wordings that training never shows; `novel` is True after one was used."""
        self.rng, self.lexicon, self.unseen, self.novel = rng, lexicon, unseen, False
        self._chosen: dict[str, str] = {}

    def pick(self, seen: Sequence[str], unseen: Sequence[str] = ()) -> str:
        """One of the wordings."""
        if self.unseen and unseen and self.rng.random() < 0.5:
            self.novel = True
            return self.rng.choice(unseen)
        return self.rng.choice(seen)

    def once(self, name: str, seen: Sequence[str], unseen: Sequence[str] = ()) -> str:
        """One of the wordings, always the same for one `name`."""
        if name not in self._chosen:
            self._chosen[name] = self.pick(seen, unseen)
        return self._chosen[name]

    def pattern(self, name: str) -> str:
        """A sentence pattern."""
        return self.pick(PATTERNS[name], UNSEEN_PATTERNS[name])

    def description(self, wanted: Wanted) -> tuple[list[str], str]:
        """Adjectives and noun, in the singular."""
        values = [wanted[name] for name in ("size", "texture", "color") if name in wanted]
        values.append(wanted.get("shape", ""))
        for value in values:
            if value not in self._chosen:
                self._chosen[value] = self.rng.choice(self.lexicon.synonyms.get(value, (value,)))
        words = [self._chosen[value] for value in values]
        pairs = {(a, b) for a in words for b in words} & UNSEEN_PAIRS
        if pairs and not self.unseen:
            for value in values:
                self._chosen[value] = self.lexicon.synonyms.get(value, (value,))[0]
            words = [self._chosen[value] for value in values]
        self.novel = self.novel or bool(pairs)
        return words[:-1], words[-1]


@dataclass
class Sentence:
    """The words so far. The words of a phrase are marked with its number."""

    wording: Wording
    named: list[Described]
    text: str = ""
    marks: list[tuple[int, int, int]] = field(default_factory=list)
    """(number of the phrase, begin, end), in order."""

    def add(self, words: str, phrase: int | None = None, glue: bool = False) -> None:
        """Append `words`, without a blank before them where `glue` is set."""
        if self.text and not glue and words[0] not in ",:":
            self.text += " "
        begin = len(self.text)
        self.text += words
        if phrase is None:
            return
        if self.marks and self.marks[-1][0] == phrase and self.marks[-1][2] == begin - 1:
            self.marks[-1] = (phrase, self.marks[-1][1], len(self.text))
        else:
            self.marks.append((phrase, begin, len(self.text)))

    def describe(self, phrase: int) -> None:
        """Append the words of `named[phrase]`, the noun last."""
        adjectives, noun = self.wording.description(self.named[phrase].wanted)
        for word in adjectives:
            self.add(word, phrase)
        self.noun(phrase, noun)

    def noun(self, phrase: int, noun: str | None = None) -> None:
        """Append the noun alone, in the phrase's number."""
        noun = noun or self.wording.description(self.named[phrase].wanted)[1]
        self.add(self.wording.lexicon.plural(noun) if self.named[phrase].many else noun, phrase)

    def follow(self, pattern: str, places: Mapping[str, Callable[[], None]]) -> None:
        """Append a pattern. `places` append what fills its slots; verbs agree with `named[0]`."""
        many = self.named[0].many
        for token in pattern.split():
            before, brace, name = token.partition("{")
            name = name.rstrip("}")
            if not brace:
                self.add(token)
            elif name in VERBS:
                self.add(VERBS[name][many])
            else:
                if before:
                    self.add(before)
                places[name]()

    def caption(self, kind: str, detail: str = "") -> Caption:
        """The finished caption, at random with a capital and a full stop."""
        rng, text = self.wording.rng, self.text
        if rng.random() < 0.25:
            text = text[0].upper() + text[1:]
        if text.lower().startswith(("where", "could")):
            text += "?" if rng.random() < 0.7 else ""
        elif rng.random() < 0.25:
            text += "."
        phrases = [
            Phrase(tuple((b, e) for n, b, e in self.marks if n == number), members(one.things), one.asked)
            for number, one in enumerate(self.named)
        ]
        return Caption(text, kind, tuple(phrases), detail)
