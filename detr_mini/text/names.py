"""Names of categories: which of two lists are the same, and names as a caption ("person. dog."), where each of them
stands in it, and as many at once as a model takes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from detr_mini.errors import UserError
from detr_mini.text.tokenizers import AnyTokenizer

AT_ONCE = 10
"""Names in a caption at most, in training and in every pass of detection: so no longer caption is met than trained."""
FRAME = 2
"""Tokens around a caption: [BEGIN] and [END]."""


def listed(names: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The caption of some names, and each one's [begin, end) characters, from how it is built: none is searched for."""
    text, spans = "", []
    for name in names:
        text += " " if text else ""
        spans.append((len(text), len(text) + len(name)))
        text += f"{name}."
    return text, tuple(spans)


def names_in(caption: str) -> list[str] | None:
    """The names of a caption that lists some, "person. dog."; None where it is no list of two or more."""
    names = [part.strip() for part in re.split(r"\.(?:\s+|$)", caption)]
    names = [name for name in names if name]
    return names if len(names) > 1 else None


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names as typed, without blanks around them. UserError where there is none, or one is empty or given twice."""
    own, seen = tuple(name.strip() for name in names), set[str]()
    if not own:
        raise UserError("the list of names is empty; say what to look for")
    for number, name in enumerate(own, start=1):
        if not name:
            raise UserError(f"name {number} of {len(own)} is empty; leave it out")
        if name.lower() in seen:
            raise UserError(f"the name '{name}' is asked for twice; leave one out")
        seen.add(name.lower())
    return own


def tokens_in_list(name: str, tokenizer: AnyTokenizer) -> int:
    """Tokens that a name takes up in a caption of names, with the period and the blank beside it."""
    return len(tokenizer.encode(f" {name.lower()}.").ids)


def passes(names: Sequence[str], tokenizer: AnyTokenizer, most: int, at_once: int = AT_ONCE) -> list[list[int]]:
    """Which names go together, in order: whole ones, `at_once` at most, no more than `most` tokens with the frame.

    UserError, with all of them, where there are names that do not even fit alone.
    """
    tokens = [tokens_in_list(name, tokenizer) for name in names]
    long = [name for name, count in zip(names, tokens, strict=True) if count + FRAME > most]
    if long:
        raise UserError(f"the model takes {most} tokens, more than that stand in {', '.join(map(repr, long))}; "
                        "shorten what is too long")  # fmt: skip
    together: list[list[int]] = []
    room = 0
    for index, count in enumerate(tokens):
        if count > room or len(together[-1]) >= at_once:
            together.append([])
            room = most - FRAME
        together[-1].append(index)
        room -= count
    return together


def rows_by_name(theirs: Sequence[str], ours: Sequence[str]) -> dict[int, int]:
    """Of our names those that they have, too: our place and theirs.

    The same name, or the only one of theirs that differs in case, blanks, hyphens and the like.
    """
    exact = {name: place for place, name in enumerate(theirs)}
    alike: dict[str, list[int]] = {}
    for place, name in enumerate(theirs):
        alike.setdefault(plain_name(name), []).append(place)
    found = {}
    for place, name in enumerate(ours):
        near = alike.get(plain_name(name), [])
        if name in exact:
            found[place] = exact[name]
        elif len(near) == 1:
            found[place] = near[0]
    return found


def plain_name(name: str) -> str:
    """A name in small letters, a blank for whatever stands between words: "Red_Blood-Cell" is "red blood cell"."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\W_]+", " ", folded).strip() or folded
