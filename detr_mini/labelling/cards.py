"""Contact sheets of labelling: a picture, or two beside each other, over a few lines that say why it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from detr_mini.drawing.contact_sheet import CARD, FAINT, GAP, INK, sheet_of
from detr_mini.drawing.text import font, shortened, wrapped

WIDTH, TALLEST = 440, 440
"""The largest width and height of one picture on a card, in pixels."""
EDGE, LINE, HEADER = 8, 20, 48


def fitted(size: tuple[int, int]) -> int:
    """Pixels of the longer side of a picture of this (height, width) on a card."""
    height, width = size
    return max(1, round(min(WIDTH / width, TALLEST / height) * max(height, width)))


def card(pictures: Sequence[Image.Image], title: str, lines: Sequence[str]) -> Image.Image:
    """Pictures side by side, a title below them, then lines, which are wrapped."""
    width = len(pictures) * (WIDTH + EDGE) + EDGE
    rows = [row for line in lines for row in wrapped(line, font(13), width - 2 * EDGE - 4)]
    top = max(picture.height for picture in pictures) + 2 * EDGE
    image = Image.new("RGB", (width, top + LINE * (1 + len(rows)) + EDGE), CARD)
    for k, picture in enumerate(pictures):
        image.paste(picture, (EDGE + k * (WIDTH + EDGE) + (WIDTH - picture.width) // 2, EDGE))
    pen = ImageDraw.Draw(image)
    pen.text((EDGE + 2, top + LINE // 2), shortened(title, font(14), width - 2 * EDGE), INK, font(14), "lm")
    for k, row in enumerate(rows, start=1):
        pen.text((EDGE + 2, top + k * LINE + LINE // 2), row, FAINT, font(13), "lm")
    return image


def write_sheet(cards: Sequence[Image.Image], path: Path, title: str, columns: int) -> None:
    """Write cards of equal width on one JPEG or PNG."""
    sheet = sheet_of(cards, max(1, min(columns, len(cards))), HEADER + GAP)
    room = sheet.width - 2 * GAP
    ImageDraw.Draw(sheet).text((GAP + 2, 30), shortened(title, font(20), room), INK, font(20), "lm")
    sheet.save(path, quality=88)
