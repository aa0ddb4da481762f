"""A sheet of images, each with its ground truth beside its predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from detr_mini.drawing.boxes import draw_detections, draw_truth
from detr_mini.drawing.contact_sheet import CARD, FAINT, GAP, INK, PNG_LEVEL, sheet_of
from detr_mini.drawing.text import font, shortened
from detr_mini.structures import Detections, Target

CELL, TALLEST = 400, 440
"""The largest width and height of one image, in pixels."""
EDGE, CAPTION, HEADER = 8, 26, 64


@dataclass(frozen=True)
class Pair:
    """An image, its detections, and its ground truth."""

    image: UInt8[Tensor, "3 h w"]
    detections: Detections
    target: Target
    name: str


def gallery(pairs: Sequence[Pair], path: str | Path, threshold: float = 0.5, title: str = "") -> None:
    """Write one PNG: for each pair the ground truth on the left, the detections of at least `threshold` on the right.

    If no score of any pair reaches `threshold`, the best detections are shown, as many as there are true boxes. The
    legend says so. A weak detector's guesses are more useful than empty pictures.
    """
    lowest = _lowest_shown(pairs, threshold)
    cards = [_card(pair, lowest) for pair in pairs] or [_text_card("no images")]
    sheet = sheet_of(cards, _columns(cards), HEADER + GAP)
    pen = ImageDraw.Draw(sheet)
    room = sheet.width - 2 * GAP
    pen.text((GAP + 2, 26), shortened(title or "Ground truth and predictions", font(22), room), INK, font(22), "lm")
    legend = f"left: ground truth · right: predictions with a score of at least {lowest:.2g}"
    legend += f" (none reaches {threshold:g})" if lowest < threshold else ""
    pen.text((GAP + 2, 52), shortened(legend, font(14), room), FAINT, font(14), "lm")
    sheet.save(path, format="PNG", compress_level=PNG_LEVEL)


def _lowest_shown(pairs: Sequence[Pair], threshold: float) -> float:
    scores = sorted((score for pair in pairs for score in pair.detections.scores.tolist()), reverse=True)
    if not scores or scores[0] >= threshold:
        return threshold
    true = sum(int((~pair.target.is_crowd).sum()) for pair in pairs)
    return scores[min(max(true, 1), len(scores)) - 1]


def _columns(cards: Sequence[Image.Image]) -> int:
    """The number of columns, at most 4, that brings the sheet closest to 4:3."""
    width, height = cards[0].width, sum(card.height for card in cards)
    return min(range(1, min(4, len(cards)) + 1), key=lambda n: abs(math.log(n * n * width / height * 3 / 4)))


def _card(pair: Pair, threshold: float) -> Image.Image:
    found = pair.detections.above(threshold)
    height, width = pair.image.shape[1:]
    longest = round(min(CELL / width, TALLEST / height) * max(width, height))
    left = draw_truth(pair.image, pair.target, found.categories, longest)
    right = draw_detections(pair.image, found, longest)
    card = Image.new("RGB", (2 * CELL + 3 * EDGE, left.height + 2 * EDGE + CAPTION), CARD)
    card.paste(left, (EDGE + (CELL - left.width) // 2, EDGE))
    card.paste(right, (2 * EDGE + CELL + (CELL - right.width) // 2, EDGE))
    pen = ImageDraw.Draw(card)
    objects = int((~pair.target.is_crowd).sum())
    counts = f"{objects} true · {len(found)} found"
    line = left.height + EDGE + CAPTION // 2 + 3
    room = card.width - 24 - font(14).getlength(counts) - 12
    pen.text((10, line), shortened(pair.name, font(14), room), INK, font(14), "lm")
    pen.text((card.width - 10, line), shortened(counts, font(14), card.width - 20), FAINT, font(14), "rm")
    return card


def _text_card(text: str) -> Image.Image:
    card = Image.new("RGB", (2 * CELL + 3 * EDGE, 60), CARD)
    ImageDraw.Draw(card).text((CELL, 30), text, FAINT, font(16), "mm")
    return card
