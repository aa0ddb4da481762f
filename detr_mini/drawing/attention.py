"""Where each detection's query looked: attention maps over the image."""

from __future__ import annotations

from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from detr_mini.drawing.boxes import colour_of, draw_detections, to_picture
from detr_mini.drawing.text import font, shortened, wrapped
from detr_mini.structures import Detections

MOST = 8
"""The most detections in one picture."""
MAP_SIDE = 640
"""Pixels of a map's longer side that are enough for a column; larger maps are only reduced."""
GAP, TITLE = 8, 26
LETTERS = (220, 220, 220)
DIMMED = 0.5
"""How much the image is dimmed where no weight lies. It stays recognisable."""


def draw_attention(
    image: UInt8[Tensor, "3 h w"],
    detections: Detections,
    maps: Float[Tensor, "n layers map_h map_w"],
    side: int = 320,
    samples: Float[Tensor, "n layers p 2"] | None = None,
    influence: Float[Tensor, "m map_h map_w"] | None = None,
) -> Image.Image:
    """A row for each of the `MOST` best detections: its box, then one column per layer, lit where its query looked.

    Each map covers the image, in any number of pixels, and runs from 0 (dimmed) to its own largest weight (bright).
    `samples`: dots on the layers' columns, in pixels of the image. `influence`: one more column, how much each pixel
    changes the box. A legend below explains them. `side`: the longer side of a column, in pixels.
    """
    height, width = image.shape[1:]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    rows, layers = min(len(detections), MOST), maps.shape[1]
    moved = 0 if influence is None or not len(influence) else 1
    across = (layers + 1 + moved) * (size[0] + GAP) + GAP
    legend = _legend(samples is not None, bool(moved))
    letters = font(15)
    lines = [line for entry in legend for line in wrapped(entry, letters, across - 2 * GAP)]
    down = max(rows, 1) * (size[1] + TITLE + GAP) + GAP
    sheet = Image.new("RGB", (across, down + (len(lines) * TITLE if rows else 0)), (24, 24, 28))
    pen = ImageDraw.Draw(sheet)
    picture = to_picture(image).resize(size)
    for row in range(rows):
        one = detections[row]
        top = GAP + row * (size[1] + TITLE + GAP)
        boxed = draw_detections(image, one, max(side, height, width)).resize(size)
        name = f"{(one.phrases or one.names)[0]} {float(one.scores[0]):.2f}"
        titles = [name, *(f"layer {layer + 1}" for layer in range(layers)), *["moved the box"] * moved]
        panels = [boxed, *(_lit(picture, maps[row, layer]) for layer in range(layers))]
        for layer, panel in enumerate(panels[1:] if samples is not None else ()):
            assert samples is not None
            _dots(panel, samples[row, layer] * scale)
        panels += [_lit(picture, influence[row])] if moved and influence is not None else []
        for column, (title, panel) in enumerate(zip(titles, panels, strict=True)):
            left = GAP + column * (size[0] + GAP)
            colour = colour_of(int(one.labels[0])) if column == 0 else LETTERS
            pen.text((left, top), shortened(title, letters, size[0]), fill=colour, font=letters)
            sheet.paste(panel, (left, top + TITLE))
    for number, line in enumerate(lines if rows else ()):
        pen.text((GAP, down + number * TITLE), line, fill=LETTERS, font=letters)
    return sheet


def _legend(dots: bool, moved: bool) -> list[str]:
    entries = ["orange: where the query looked in the image (cross-attention), each panel up to its own largest weight"]
    entries += ["dots: where it read features inside its box"] if dots else []
    return entries + (["moved the box: the pixels that change the box most, in any way"] if moved else [])


def _dots(panel: Image.Image, places: Float[Tensor, "p 2"]) -> None:
    pen = ImageDraw.Draw(panel)
    for x, y in places.tolist():
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(90, 220, 255), outline=(10, 20, 30))


def _lit(picture: Image.Image, weights: Float[Tensor, "h w"]) -> Image.Image:
    """The picture, tinted where the weight is large and dimmed elsewhere."""
    strength = (weights / weights.max().clamp(min=1e-12)).sqrt()
    mask = Image.fromarray((strength * 255).byte().numpy()).resize(picture.size, Image.Resampling.BILINEAR)
    dim = Image.blend(picture, Image.new("RGB", picture.size), DIMMED)
    warm = Image.blend(picture, Image.new("RGB", picture.size, (255, 150, 20)), 0.5)
    return Image.composite(warm, dim, mask)
