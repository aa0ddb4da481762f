"""`python docs/caption_pictures.py`: the pictures of docs/captions.md, by the weights that come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from detr_mini import load
from detr_mini.drawing.caption_cards import CaptionCard, draw_captions
from detr_mini.inference.detector import Detector, as_tensor
from detr_mini.phrases import Caption, Phrase
from detr_mini.scenes.rendering import OUTLINES

IMAGES = Path(__file__).parent / "images"
FINE = 4
"""Pictures are drawn so many times larger, and made smaller with smooth edges."""
SIDE = 128

Thing = tuple[str, str, float, float, float]
"""Shape, colour, centre (x, y) and diameter in pixels."""

DRAWN: list[tuple[str, list[Thing], list[str]]] = [
    (
        "#101840",
        [("square", "#d02020", 64, 92, 34), ("triangle", "#20a030", 64, 60, 34), ("star", "#ffd820", 22, 24, 24),
         ("star", "#ffd820", 58, 18, 14), ("star", "#ffd820", 104, 30, 26), ("circle", "#3060e0", 22, 100, 15)],
        ["the triangle above the red square", "the two large yellow stars", "the blue circle left of the square"],
    ),
    (
        "#bfe4f7",
        [("circle", "#d02020", 20, 44, 26), ("circle", "#20a030", 50, 34, 26), ("circle", "#7030c0", 80, 46, 26),
         ("circle", "#d02020", 108, 36, 26), ("square", "#f08010", 64, 102, 30)],
        ["the second circle from the left", "the circles that are not red", "a green circle and an orange square"],
    ),
    (
        "#ffffff",
        [("cross", "#2040d0", 26, 26, 26), ("circle", "#d02020", 64, 26, 26), ("cross", "#2040d0", 102, 64, 26),
         ("circle", "#d02020", 64, 64, 26), ("cross", "#2040d0", 26, 102, 26), ("heart", "#f080b0", 102, 102, 26)],
        ["the three crosses", "the circle above the red circle", "the cross right of the circle below the circle"],
    ),
]  # fmt: skip
"""Ground, things, and what is asked of the picture."""


def drawn(ground: str, things: list[Thing]) -> Image.Image:
    """What a person would draw: flat colours on a flat ground."""
    picture = Image.new("RGB", (SIDE * FINE, SIDE * FINE), ground)
    pen = ImageDraw.Draw(picture)
    for shape, colour, x, y, size in things:
        corners = OUTLINES[shape] / np.abs(OUTLINES[shape]).max()
        pen.polygon([tuple(point) for point in FINE * (np.array([x, y]) + size / 2 * corners)], fill=colour)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def answered(detector: Detector, picture: Image.Image, caption: str) -> CaptionCard:
    """What the detector finds of the caption, as a card: each phrase and its boxes in one colour."""
    found = detector.detect(picture, caption)
    assert found.phrases is not None
    phrases, notes = [], [f"{score:.2f}" for score in found.scores.tolist()]
    for words in dict.fromkeys(found.phrases):
        begin = caption.find(words)
        spans = ((begin, begin + len(words)),) if begin >= 0 else ()
        things = tuple(i for i, own in enumerate(found.phrases) if own == words)
        phrases.append(Phrase(spans, things, asked=True))
    boxes = found.boxes if len(found) else torch.zeros(0, 4)
    return CaptionCard(as_tensor(picture), boxes, Caption(caption, "", tuple(phrases)), notes=tuple(notes))


def main() -> None:
    detector = load("shapes_captions")
    scenes = [(drawn(ground, things), captions) for ground, things, captions in DRAWN]
    cards = [answered(detector, picture, caption) for picture, captions in scenes for caption in captions]
    draw_captions(cards, IMAGES / "captions_drawn.png", "Drawn by hand, found by the weights in the box", columns=3)


if __name__ == "__main__":
    main()
