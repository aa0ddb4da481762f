"""Where each detection's query looked, as light on the picture."""

from __future__ import annotations

from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from detr_mini.drawing.boxes import colour_of, draw_detections, to_picture
from detr_mini.drawing.text import font, shortened
from detr_mini.structures import Detections

MOST = 8
"""Detections on one picture."""
GAP, TITLE = 8, 26


def draw_attention(
    image: UInt8[Tensor, "3 h w"],
    detections: Detections,
    maps: Float[Tensor, "n layers h w"],
    side: int = 320,
) -> Image.Image:
    """A row a detection, the best `MOST`: its box, then the picture lit where its query looked, a column a layer.

    Each map is shown from nothing (dark) to its own largest weight (bright). `side`: of a column, in pixels.
    """
    height, width = image.shape[1:]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    rows, layers = min(len(detections), MOST), maps.shape[1]
    sheet = Image.new(
        "RGB", ((layers + 1) * (size[0] + GAP) + GAP, max(rows, 1) * (size[1] + TITLE + GAP) + GAP), (24, 24, 28)
    )
    pen, letters = ImageDraw.Draw(sheet), font(15)
    picture = to_picture(image).resize(size)
    for row in range(rows):
        one = detections[row]
        top = GAP + row * (size[1] + TITLE + GAP)
        boxed = draw_detections(image, one, max(side, height, width)).resize(size)
        name = f"{(one.phrases or one.names)[0]} {float(one.scores[0]):.2f}"
        titles = [name, *(f"layer {layer + 1}" for layer in range(layers))]
        panels = [boxed, *(_lit(picture, maps[row, layer]) for layer in range(layers))]
        for column, (title, panel) in enumerate(zip(titles, panels, strict=True)):
            left = GAP + column * (size[0] + GAP)
            colour = colour_of(int(one.labels[0])) if column == 0 else (220, 220, 220)
            pen.text((left, top), shortened(title, letters, size[0]), fill=colour, font=letters)
            sheet.paste(panel, (left, top + TITLE))
    return sheet


def _lit(picture: Image.Image, weights: Float[Tensor, "h w"]) -> Image.Image:
    """The picture, darkened where little weight lies and tinted where much does."""
    strength = (weights / weights.max().clamp(min=1e-12)).sqrt()
    mask = Image.fromarray((strength * 255).byte().numpy()).resize(picture.size, Image.Resampling.BILINEAR)
    dark = Image.blend(picture, Image.new("RGB", picture.size), 0.75)
    warm = Image.blend(picture, Image.new("RGB", picture.size, (255, 140, 0)), 0.35)
    return Image.composite(warm, dark, mask)
