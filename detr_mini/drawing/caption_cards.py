"""Draws captions with their images: a phrase and its boxes share a colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from detr_mini.drawing.boxes import Colour, colour_of, draw_boxes, to_picture
from detr_mini.drawing.contact_sheet import CARD, FAINT, GAP, INK, PNG_LEVEL, sheet_of
from detr_mini.drawing.text import font, shortened
from detr_mini.phrases import Caption

DARK = (15, 15, 15)
WIDTH, TALLEST = 420, 360
"""Pixels: the width of a card, and the greatest height of its image."""
EDGE, LETTERS, LINE, HEADER = 10, 15, 23, 64


@dataclass(frozen=True)
class CaptionCard:
    """An image, the boxes of its objects, and a caption whose phrases name them by index."""

    image: UInt8[Tensor, "3 h w"]
    boxes_xyxy: Float[Tensor, "n 4"]
    caption: Caption
    name: str = ""
    notes: tuple[str, ...] | None = None
    """Text at each box. None writes "anchor" at the boxes of anchors."""


def draw_caption(card: CaptionCard) -> Image.Image:
    """The image with the boxes that the caption names, and the caption below it."""
    picture = to_picture(card.image)
    longest = round(min((WIDTH - 2 * EDGE) / picture.width, TALLEST / picture.height) * max(picture.size))
    named = [(place, k) for k, phrase in enumerate(card.caption.phrases) for place in phrase.things]
    texts = ["" if card.caption.phrases[k].asked else "anchor" for _, k in named]
    if card.notes is not None:
        texts = [card.notes[place] for place, _ in named]
    boxes = card.boxes_xyxy[[place for place, _ in named]]
    drawn = draw_boxes(picture, boxes, texts, [k for _, k in named], longest)
    rows = _rows(_pieces(card.caption), WIDTH - 2 * EDGE)
    canvas = Image.new("RGB", (WIDTH, drawn.height + len(rows) * LINE + 3 * EDGE + LINE), CARD)
    canvas.paste(drawn, ((WIDTH - drawn.width) // 2, EDGE))
    pen = ImageDraw.Draw(canvas)
    top = drawn.height + 2 * EDGE
    for number, row in enumerate(rows):
        _write(pen, row, top + number * LINE + LINE // 2)
    foot = "  ".join(part for part in (card.caption.kind, card.caption.detail, card.name) if part)
    foot = shortened(foot, font(12), WIDTH - 2 * EDGE)
    pen.text((EDGE, canvas.height - EDGE - LINE // 2), foot, FAINT, font(12), "lm")
    return canvas


def draw_captions(cards: Iterable[CaptionCard], path: str | Path, title: str, columns: int = 4) -> None:
    """Write one PNG of all cards, each under the shortest column. ValueError where there is none.

    Each card is drawn before the next one is asked for, so that only one image at full size need be in memory.
    """
    drawn = [draw_caption(card) for card in cards]
    if not drawn:
        raise ValueError("there is no caption to draw")
    sheet = sheet_of(drawn, min(columns, len(drawn)), HEADER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP + 2, HEADER // 2), shortened(title, font(20), sheet.width - 2 * GAP), INK, font(20), "lm")
    sheet.save(path, format="PNG", compress_level=PNG_LEVEL)


Piece = tuple[str, Colour | None]
"""Text on one line, and the colour of its phrase."""


def _pieces(caption: Caption) -> list[Piece]:
    """The words of the caption, each with the blanks after it."""
    owner: list[int | None] = [None] * len(caption.text)
    for k, phrase in enumerate(caption.phrases):
        for begin, end in phrase.spans:
            owner[begin:end] = [k] * (end - begin)
    pieces: list[Piece] = []
    begin = 0
    for place in range(1, len(caption.text) + 1):
        ends = place == len(caption.text) or owner[place] != owner[begin]
        if ends or (caption.text[place - 1].isspace() and not caption.text[place].isspace()):
            number = owner[begin]
            pieces.append((caption.text[begin:place], None if number is None else colour_of(number)))
            begin = place
    return pieces


def _rows(pieces: Sequence[Piece], width: int) -> list[list[Piece]]:
    """Lines of at most `width` pixels; a wider word gets a line of its own."""
    rows: list[list[Piece]] = [[]]
    used = 0.0
    for text, colour in pieces:
        length = font(LETTERS).getlength(text)
        if rows[-1] and used + font(LETTERS).getlength(text.rstrip()) > width:
            rows.append([])
            used = 0.0
        rows[-1].append((text, colour))
        used += length
    return [[*row[:-1], (row[-1][0].rstrip(), row[-1][1])] for row in rows if row]


def _write(pen: ImageDraw.ImageDraw, row: Sequence[Piece], middle: int) -> None:
    left, letters = float(EDGE), font(LETTERS)
    for text, colour in row:
        length = letters.getlength(text)
        if colour is not None:
            pen.rectangle((round(left) - 1, middle - 10, round(left + length), middle + 9), fill=colour)
        pen.text((round(left), middle), text, DARK if colour is not None else INK, letters, "lm")
        left += length
