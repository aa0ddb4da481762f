"""Parses captions into trees (`grammar`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar

from oracles.captions import grammar
from oracles.captions.grammar import (
    MADE,
    Beside,
    Between,
    Most,
    Nearest,
    NounPhrase,
    Nth,
    Restriction,
    Same,
    Sized,
    Vocabulary,
)

Value = TypeVar("Value")
TOKEN = re.compile(r"(?:isn|aren)'t|\w+|[^\w\s]")
LONGEST = 8
"""Words of the longest relation; nouns may have more."""


class NotUnderstoodError(ValueError):
    """A sentence outside the language. The message quotes the words at fault."""


def parse(text: str, vocabulary: Vocabulary = MADE) -> tuple[NounPhrase, ...]:
    """The descriptions that a sentence asks for: one, or those of a list. NotUnderstoodError."""
    return _Parser(text, vocabulary).sentence()


@lru_cache(maxsize=64)
def _noun_table(vocabulary: Vocabulary) -> dict[str, tuple[str, frozenset[bool]]]:
    """Every form of every noun to its shape and its numbers (both for "sheep")."""
    table: dict[str, tuple[str, frozenset[bool]]] = {}
    for singular, (plural, shape) in vocabulary.nouns.items():
        for form, several in ((singular, False), (plural, True)):
            words = " ".join(TOKEN.findall(form.casefold()))
            table[words] = shape, table.get(words, (shape, frozenset()))[1] | {several}
    return table


@dataclass
class _Description:
    """The parts of a noun phrase while it is read."""

    shape: str = ""
    forms: frozenset[bool] = frozenset()
    wanted: list[tuple[str, str]] = field(default_factory=list)
    unwanted: list[tuple[str, str]] = field(default_factory=list)
    noun: tuple[int, int] = (0, 0)
    words: list[tuple[int, int]] = field(default_factory=list)
    restrictions: list[Restriction] = field(default_factory=list)


class _Parser:
    """Recursive descent. A method that returns None has read nothing."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self.text, self.vocabulary, self.nouns = text, vocabulary, _noun_table(vocabulary)
        straight = text.replace("’", "'")
        self.spans = [match.span() for match in TOKEN.finditer(straight)]
        self.words = [straight[begin:end].casefold() for begin, end in self.spans]
        self.longest = max(LONGEST, *(len(noun.split()) for noun in self.nouns))
        self.place = 0

    def sentence(self) -> tuple[NounPhrase, ...]:
        """A description, or a list of them; or a relation, a comma or a colon, and what stands in it."""
        self.leads()
        relation = self.restriction()
        edge = None if relation else self.take(grammar.FROM)
        if relation or edge:
            self.need({",": True, ":": True}, "a comma or a colon")
            self.leads()
            phrase = self.noun_phrase(asked=True, edge=edge)
            if relation:
                phrase = replace(phrase, restrictions=(relation, *phrase.restrictions))
            phrases = [phrase]
        else:
            phrases = [self.noun_phrase(asked=True)]
            while not self.comes(grammar.END) and self.take(grammar.AND):
                phrases.append(self.noun_phrase(asked=True))
        while self.take(grammar.END):
            pass
        if self.place < len(self.words):
            raise self.lost("the end")
        return tuple(phrases)

    def leads(self) -> None:
        """Skip what means nothing."""
        while self.take(grammar.LEADS):
            self.take({",": True, ":": True})

    def noun_phrase(self, asked: bool, edge: str | None = None) -> NounPhrase:
        """`edge`: the side from which an ordinal counts, if it came first. Only `asked` phrases may name several."""
        begin = self.place
        article, number = self.take(grammar.ARTICLES), self.take(grammar.NUMBERS)
        exactly = "exactly" in self.words[begin : self.place]
        found, nth = _Description(), self.take(grammar.ORDINALS)
        foremost, most = self.take(grammar.FOREMOST), self.take(grammar.MOST)
        while self.adjective(found) or (found.words and self.and_then(self.vocabulary.adjectives)):
            pass
        try:
            self.noun(found)
        except NotUnderstoodError:  # the noun may begin like a number: "the two wheeler"
            self.place, found = begin, _Description()
            article, number, nth, foremost, most = self.take({"the": grammar.ARTICLES["the"]}), None, None, None, None
            if not self.comes(self.nouns):
                raise
            self.noun(found)
        if nth is not None:
            found.restrictions.append(Nth(nth, edge or self.need(grammar.FROM, "'from the' and a side")))
        elif edge:
            raise self.lost("an ordinal before what is counted")
        if foremost is not None:
            found.restrictions.append(Nth(1, foremost))
        if most is not None:
            found.restrictions.append(Most(most))
        self.postmodifiers(found, asked)
        one = not asked or any(isinstance(restriction, Nth | Most) for restriction in found.restrictions)
        forms = found.forms & (article or found.forms)
        forms &= {False} if number == 1 or one else {True} if number else forms
        if not forms:
            noun = self.text[found.noun[0] : found.noun[1]]
            raise NotUnderstoodError(f"{noun!r} in {self.text!r} does not have the number of its sentence")
        return NounPhrase(
            found.shape,
            tuple(found.wanted),
            tuple(found.unwanted),
            tuple(sorted(found.words)),
            plural=False not in forms,
            number=number if number and (number > 1 or exactly) else None,
            restrictions=tuple(found.restrictions),
        )

    def adjective(self, found: _Description) -> bool:
        """One adjective, or "non-" and one, before a noun."""
        begin = self.place
        negated = self.take({"non -": True, "non": True}) is not None
        first = self.place
        adjective = self.take(self.vocabulary.adjectives)
        if adjective is None:
            self.place = begin
            return False
        (found.unwanted if negated else found.wanted).append(adjective)
        if not negated:
            found.words += self.spans[first : self.place]
        return True

    def noun(self, found: _Description) -> None:
        begin = self.place
        noun = self.take(self.nouns)
        if noun is None and (found.wanted or found.unwanted):
            noun = self.take(grammar.ONES)
        if noun is None:
            raise self.lost("a noun")
        found.shape, found.forms = noun
        found.noun = self.spans[begin][0], self.spans[self.place - 1][1]
        found.words += self.spans[begin : self.place]

    def postmodifiers(self, found: _Description, asked: bool) -> None:
        """What follows a noun. "and also left of" belongs to the target, not to the anchor before it."""
        while True:
            begin = self.place
            if self.take({"with": True}):
                first = self.place
                feature = self.take(self.vocabulary.features)
                if feature is not None:
                    found.wanted.append(feature)
                    found.words += self.spans[first : self.place]
                    continue
                self.place = begin
            if self.take(grammar.THAT):
                self.clause(found)
                continue
            if asked and found.restrictions:
                self.take({"and": True, "and also": True})
            restriction = self.restriction()
            if restriction is None:
                self.place = begin
                return
            found.restrictions.append(restriction)

    def clause(self, found: _Description) -> None:
        """What follows "that" or "which"."""
        same = self.restriction() if self.comes(grammar.SAME) else None
        if same is not None:
            found.restrictions.append(same)
        elif self.take(grammar.NOT):
            found.unwanted.append(self.need(self.vocabulary.adjectives, "an adjective"))
        else:
            self.need(grammar.VERBS, "a verb")
            both, most = self.take({"both": True}), self.take(grammar.MOST)
            if most is not None:
                found.restrictions.append(Most(most))
            elif self.comes(self.vocabulary.adjectives):
                while self.adjective(found) or self.and_then(self.vocabulary.adjectives):
                    pass
                self.take({f"in {attribute}": True for attribute in grammar.ATTRIBUTES})
            else:
                found.restrictions.append(self.needed_restriction())
                if both:
                    self.need({"and": True}, "'and'")
                    found.restrictions.append(self.needed_restriction())

    def needed_restriction(self) -> Restriction:
        restriction = self.restriction()
        if restriction is None:
            raise self.lost("a relation")
        return restriction

    def restriction(self) -> Restriction | None:
        """A relation and its anchors."""
        side = self.take(grammar.BESIDE)
        if side is not None:
            return Beside(side, (self.anchor(),))
        if self.take(grammar.NEAREST):
            return Nearest((self.anchor(),))
        if self.take(grammar.BETWEEN):
            first = self.anchor()
            self.need({"and": True}, "'and'")
            return Between((first, self.anchor()))
        larger = self.take(grammar.SIZED)
        if larger is not None:
            return Sized(larger, (self.anchor(),))
        farthest = self.take(grammar.FARTHEST)
        if farthest is not None:
            return Nth(1, farthest)
        if self.take(grammar.SAME):
            attribute = self.need(grammar.ATTRIBUTES, "colour, size, shape or texture")
            self.need({"as": True}, "'as'")
            return Same(attribute, (self.anchor(),))
        return None

    def anchor(self) -> NounPhrase:
        return self.noun_phrase(asked=False)

    def end_of(self, table: Mapping[str, object]) -> int:
        """Where the longest entry at `place` ends, or 0."""
        for end in range(min(self.place + self.longest, len(self.words)), self.place, -1):
            if " ".join(self.words[self.place : end]) in table:
                return end
        return 0

    def comes(self, table: Mapping[str, object]) -> bool:
        return self.end_of(table) > 0

    def take(self, table: Mapping[str, Value]) -> Value | None:
        """Read the longest entry at `place` and return its value, or None."""
        begin, end = self.place, self.end_of(table)
        if not end:
            return None
        self.place = end
        return table[" ".join(self.words[begin:end])]

    def and_then(self, table: Mapping[str, object]) -> bool:
        """Read "and" or a comma if an entry follows."""
        begin = self.place
        if self.take(grammar.AND) and self.comes(table):
            return True
        self.place = begin
        return False

    def need(self, table: Mapping[str, Value], what: str) -> Value:
        value = self.take(table)
        if value is None:
            raise self.lost(what)
        return value

    def lost(self, what: str) -> NotUnderstoodError:
        place = self.spans[self.place][0] if self.place < len(self.spans) else len(self.text)
        rest = repr(self.text[place:]) if place < len(self.text) else "the end"
        return NotUnderstoodError(f"{self.text!r} is not understood: {what} should stand where {rest} does")
