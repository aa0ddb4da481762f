"""Many small pictures on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

PAPER, INK, FAINT, CARD = (246, 247, 249), (28, 32, 38), (108, 116, 128), (255, 255, 255)
GAP = 14
"""Pixels around each card."""
PNG_LEVEL = 3
"""Compression of PNG files: photographs are about as small as at 6, the usual level, in half the time."""


def sheet_of(cards: Sequence[Image.Image], columns: int, top: int) -> Image.Image:
    """A sheet of `cards` of equal width, each in the column that is shortest so far. The `top` pixels stay free."""
    width, ends, places = cards[0].width, [top] * columns, []
    for card in cards:
        column = ends.index(min(ends))
        places.append((GAP + column * (width + GAP), ends[column]))
        ends[column] += card.height + GAP
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, max(ends)), PAPER)
    for card, place in zip(cards, places, strict=True):
        sheet.paste(card, place)
    return sheet
