"""A caption and its phrases: plain data, so that what only reads caption files needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrase:
    """Words of a caption, and the things that they name."""

    spans: tuple[tuple[int, int], ...]
    """[begin, end) characters: a description without its article, number and relation."""
    things: tuple[int, ...]
    """Places among the image's boxes (crowd regions aside); none where the phrase names nothing that is there."""
    asked: bool
    """Whether the caption asks for them, or only refers to them (an anchor)."""


@dataclass(frozen=True)
class Caption:
    """A sentence about an image."""

    text: str
    kind: str
    phrases: tuple[Phrase, ...]
    detail: str = ""
    """Of a chain its number of relations, of an absent caption the reason, of an order pair what is swapped."""
