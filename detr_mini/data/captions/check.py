"""Whether a caption says of a picture's things exactly what its record claims: the words are parsed and evaluated."""

from __future__ import annotations

from collections.abc import Sequence

from detr_mini.data.captions.grammar import MADE, Vocabulary
from detr_mini.data.captions.records import Item
from detr_mini.structures import Caption


def faults(caption: Caption, items: Sequence[Item], side: float, vocabulary: Vocabulary = MADE) -> list[str]:
    """What is wrong with a record, a sentence each; none when it is proven.

    `items` are the picture's things, whose places the phrases name; `side` (pixels) is the length of which
    `records.CLEAR_OFFSET` is a share, the side of a made canvas.
    """
    raise NotImplementedError


def pair_faults(
    first: Caption, second: Caption, items: Sequence[Item], side: float, vocabulary: Vocabulary = MADE
) -> list[str]:
    """What is wrong with a pair of `order`: each by itself, and that the same words must name different things."""
    raise NotImplementedError
