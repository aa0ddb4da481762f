"""A sentence being made: words one after the other, and which of them name what."""

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
from detr_mini.structures import Caption, Phrase

Wanted = Mapping[str, str]
"""Attributes and their values: what a description asks for."""


@dataclass(frozen=True)
class Named:
    """A description, and the things that its sentence lets it name."""

    wanted: Wanted
    things: int
    """As a set, see `Facts`."""
    asked: bool = True
    many: bool = False
    """Whether it is said in the plural."""


class Speaker:
    """Chooses words and patterns. One choice a value, so that a sentence and its counterpart use the same words."""

    def __init__(self, rng: random.Random, lexicon: Lexicon, unseen: bool = False) -> None:
        """`unseen`: may also use what training never shows; `novel` then says whether it did."""
        self.rng, self.lexicon, self.unseen, self.novel = rng, lexicon, unseen, False
        self._said: dict[str, str] = {}

    def pick(self, seen: Sequence[str], unseen: Sequence[str] = ()) -> str:
        """One of the wordings."""
        if self.unseen and unseen and self.rng.random() < 0.5:
            self.novel = True
            return self.rng.choice(unseen)
        return self.rng.choice(seen)

    def once(self, name: str, seen: Sequence[str], unseen: Sequence[str] = ()) -> str:
        """One of the wordings, the same whenever `name` comes again."""
        if name not in self._said:
            self._said[name] = self.pick(seen, unseen)
        return self._said[name]

    def pattern(self, name: str) -> str:
        """A sentence pattern."""
        return self.pick(PATTERNS[name], UNSEEN_PATTERNS[name])

    def description(self, wanted: Wanted) -> tuple[list[str], str]:
        """Adjectives and noun, in the singular."""
        values = [wanted[name] for name in ("size", "texture", "color") if name in wanted]
        values.append(wanted.get("shape", ""))
        for value in values:
            if value not in self._said:
                self._said[value] = self.rng.choice(self.lexicon.synonyms.get(value, (value,)))
        words = [self._said[value] for value in values]
        pairs = {(a, b) for a in words for b in words} & UNSEEN_PAIRS
        if pairs and not self.unseen:
            for value in values:
                self._said[value] = self.lexicon.synonyms.get(value, (value,))[0]
            words = [self._said[value] for value in values]
        self.novel = self.novel or bool(pairs)
        return words[:-1], words[-1]


@dataclass
class Sentence:
    """Words so far. A phrase's words are marked with its number."""

    speaker: Speaker
    named: list[Named]
    text: str = ""
    marks: list[tuple[int, int, int]] = field(default_factory=list)
    """(number of the phrase, begin, end), in order."""

    def add(self, words: str, phrase: int | None = None, glue: bool = False) -> None:
        """Say `words`; `glue`: without a blank before them."""
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
        """The words of `named[phrase]`, the noun last."""
        adjectives, noun = self.speaker.description(self.named[phrase].wanted)
        for word in adjectives:
            self.add(word, phrase)
        self.noun(phrase, noun)

    def noun(self, phrase: int, noun: str | None = None) -> None:
        """The noun alone, in the phrase's number."""
        noun = noun or self.speaker.description(self.named[phrase].wanted)[1]
        self.add(self.speaker.lexicon.plural(noun) if self.named[phrase].many else noun, phrase)

    def follow(self, pattern: str, places: Mapping[str, Callable[[], None]]) -> None:
        """Say a pattern; what stands in its places is said by `places`, verbs agree with `named[0]`."""
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
        """The sentence as a record, with a capital and a full stop now and then."""
        rng, text = self.speaker.rng, self.text
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
