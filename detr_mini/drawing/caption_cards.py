"""Captions on their pictures: the words of a phrase and its boxes in one colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from detr_mini.drawing.boxes import Colour, colour_of, draw_boxes, to_picture
from detr_mini.drawing.contact_sheet import CARD, FAINT, GAP, INK, sheet_of
from detr_mini.drawing.text import font, shortened
from detr_mini.structures import Caption

DARK = (15, 15, 15)
WIDTH, TALLEST = 420, 360
"""Pixels of a card's width, and of its picture's height at most."""
EDGE, LETTERS, LINE, HEADER = 10, 15, 23, 64


@dataclass(frozen=True)
class Told:
    """A picture, the boxes of its things, and a caption whose phrases name them by their places."""

    image: UInt8[Tensor, "3 h w"]
    boxes_xyxy: Float[Tensor, "n 4"]
    caption: Caption
    name: str = ""
    notes: tuple[str, ...] | None = None
    """What is written at each box; else an anchor's box has its name."""


def draw_caption(told: Told) -> Image.Image:
    """A card: the picture with the boxes that the caption names, below it the caption. An anchor's box has its name."""
    picture = to_picture(told.image)
    longest = round(min((WIDTH - 2 * EDGE) / picture.width, TALLEST / picture.height) * max(picture.size))
    named = [(thing, k) for k, phrase in enumerate(told.caption.phrases) for thing in phrase.things]
    texts = ["" if told.caption.phrases[k].asked else "anchor" for _, k in named]
    if told.notes is not None:
        texts = [told.notes[thing] for thing, _ in named]
    boxes = told.boxes_xyxy[[thing for thing, _ in named]]
    drawn = draw_boxes(picture, boxes, texts, [k for _, k in named], longest)
    rows = _rows(_pieces(told.caption), WIDTH - 2 * EDGE)
    card = Image.new("RGB", (WIDTH, drawn.height + len(rows) * LINE + 3 * EDGE + LINE), CARD)
    card.paste(drawn, ((WIDTH - drawn.width) // 2, EDGE))
    pen = ImageDraw.Draw(card)
    top = drawn.height + 2 * EDGE
    for number, row in enumerate(rows):
        _write(pen, row, top + number * LINE + LINE // 2)
    foot = "  ".join(part for part in (told.caption.kind, told.caption.detail, told.name) if part)
    foot = shortened(foot, font(12), WIDTH - 2 * EDGE)
    pen.text((EDGE, card.height - EDGE - LINE // 2), foot, FAINT, font(12), "lm")
    return card


def draw_captions(told: Sequence[Told], path: str | Path, title: str, columns: int = 4) -> None:
    """Write one PNG of cards, each under the shortest column. ValueError where there is none."""
    if not told:
        raise ValueError("there is no caption to draw")
    cards = [draw_caption(one) for one in told]
    sheet = sheet_of(cards, min(columns, len(cards)), HEADER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP + 2, HEADER // 2), shortened(title, font(20), sheet.width - 2 * GAP), INK, font(20), "lm")
    sheet.save(path, format="PNG")


Piece = tuple[str, Colour | None]
"""Words without a line's end in them, and the colour of their phrase."""


def _pieces(caption: Caption) -> list[Piece]:
    """The caption's words, one a piece, with the blanks that follow them."""
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
    """Lines that are not wider than `width` pixels; a word that is, stands alone."""
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
