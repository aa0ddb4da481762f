"""Category names: matching two lists of names, and lists of names as captions ("person. dog.")."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from detr_mini.errors import UserError
from detr_mini.text.tokenizers import AnyTokenizer

AT_ONCE = 10
"""The most names in a caption, in training and in detection, so that no caption is longer than in training."""
FRAME = 2
"""The number of tokens around a caption: [BEGIN] and [END]."""


def listed(names: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The caption that lists the names, and the [begin, end) characters of each."""
    text, spans = "", []
    for name in names:
        text += " " if text else ""
        spans.append((len(text), len(text) + len(name)))
        text += f"{name}."
    return text, tuple(spans)


def names_in(caption: str) -> list[str] | None:
    """The names in a caption of the form "person. dog."; None if it does not list two or more."""
    names = [part.strip() for part in re.split(r"\.(?:\s+|$)", caption)]
    names = [name for name in names if name]
    return names if len(names) > 1 else None


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names without surrounding blanks. UserError for an empty list, an empty name or a repeated one."""
    own, seen = tuple(name.strip() for name in names), set[str]()
    if not own:
        raise UserError("the list of names is empty; give at least one name to look for")
    for number, name in enumerate(own, start=1):
        if not name:
            raise UserError(f"name {number} of {len(own)} is empty; remove it")
        if name.lower() in seen:
            raise UserError(f"the name '{name}' is given twice; remove one")
        seen.add(name.lower())
    return own


def tokens_in_list(name: str, tokenizer: AnyTokenizer) -> int:
    """The number of tokens of a name in a caption of names, including its period and the blank before it."""
    return len(tokenizer.encode(f" {name.lower()}.").ids)


def passes(names: Sequence[str], tokenizer: AnyTokenizer, most: int, at_once: int = AT_ONCE) -> list[list[int]]:
    """The indices of the names in each caption, in order: at most `at_once` names and `most` tokens with the frame.

    UserError that lists all names that do not fit on their own.
    """
    tokens = [tokens_in_list(name, tokenizer) for name in names]
    long = [name for name, count in zip(names, tokens, strict=True) if count + FRAME > most]
    if long:
        raise UserError(f"the model takes at most {most} tokens; these names are too long: "
                        f"{', '.join(map(repr, long))}. Shorten them")  # fmt: skip
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
    """The index in `ours` and in `theirs` of each name in both.

    Names match if they are equal, or if only one of theirs is equal up to case, blanks, hyphens and underscores.
    """
    exact = {name: place for place, name in enumerate(theirs)}
    by_plain_name: dict[str, list[int]] = {}
    for place, name in enumerate(theirs):
        by_plain_name.setdefault(plain_name(name), []).append(place)
    found = {}
    for place, name in enumerate(ours):
        near = by_plain_name.get(plain_name(name), [])
        if name in exact:
            found[place] = exact[name]
        elif len(near) == 1:
            found[place] = near[0]
    return found


def plain_name(name: str) -> str:
    """The name in lower case with single blanks between words: "Red_Blood-Cell" becomes "red blood cell"."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\W_]+", " ", folded).strip() or folded
