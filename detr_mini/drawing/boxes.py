"""Boxes with labels, readable on any image, at any size."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int32, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, scale_boxes
from detr_mini.drawing.text import font, shortened
from detr_mini.structures import Categories, Detections, Target

Colour = tuple[int, int, int]
Place = tuple[int, int, int, int]

PALETTE: tuple[Colour, ...] = (
    (255, 92, 77), (38, 166, 255), (255, 196, 0), (46, 204, 113), (190, 110, 255), (255, 128, 0), (0, 209, 209),
    (255, 105, 180), (160, 214, 40), (112, 128, 255), (222, 165, 110), (0, 158, 115),
)  # fmt: skip
"""Bright and easy to tell apart. Further categories take hues around the colour circle."""
MANY = 15
"""With more boxes, the text is smaller, so that it hides less."""
_LEAST = 8
"""The smallest font size, in pixels."""


def colour_of(label: int) -> Colour:
    """The colour of a category, the same in every picture."""
    if label < len(PALETTE):
        return PALETTE[label]
    turn = 0.618034 * label  # the golden ratio keeps any run of hues apart
    rgb = colorsys.hsv_to_rgb(turn % 1, (0.85, 0.6)[label % 2], (1.0, 0.85)[label // 2 % 2])
    return (round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2]))


def to_picture(image: UInt8[Tensor, "3 h w"]) -> Image.Image:
    """A tensor as a PIL image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def draw_detections(image: UInt8[Tensor, "3 h w"], detections: Detections, longest: int | None = None) -> Image.Image:
    """`image` with every detection, its name and score, the first on top. `longest`: see `draw_boxes`."""
    texts = [
        f"{name} {score:.2f}"
        for name, score in zip(detections.phrases or detections.names, detections.scores.tolist(), strict=True)
    ]
    return draw_boxes(to_picture(image), detections.boxes, texts, detections.labels.tolist(), longest)


def draw_truth(
    image: UInt8[Tensor, "3 h w"], target: Target, categories: Categories, longest: int | None = None
) -> Image.Image:
    """`image` with the boxes and names of its ground truth. Crowd regions are marked. `longest`: see `draw_boxes`."""
    height, width = image.shape[1:]
    boxes = scale_boxes(cxcywh_to_xyxy(target.boxes.cpu()), width, height)
    labels = target.labels.tolist()
    crowd = target.is_crowd.tolist()
    texts = [categories.names[k] + (" (crowd)" if c else "") for k, c in zip(labels, crowd, strict=True)]
    return draw_boxes(to_picture(image), boxes, texts, labels, longest)


def draw_boxes(
    picture: Image.Image,
    boxes_xyxy: Float[Tensor, "n 4"],
    texts: Sequence[str],
    labels: Sequence[int],
    longest: int | None = None,
) -> Image.Image:
    """A copy of `picture` with boxes (in its pixels) and texts, coloured by label. Earlier boxes lie on top.

    `longest`: first scale the picture so that its longer side has this many pixels. Text that would cross the border is
    moved, then cut.
    """
    scale = 1.0 if longest is None else longest / max(picture.size)
    if scale != 1:
        target = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(target, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    picture = picture.convert("RGB") if scale != 1 else picture.convert("RGB").copy()
    pen = ImageDraw.Draw(picture)
    side = (picture.width * picture.height) ** 0.5
    corners = (boxes_xyxy.detach().float().cpu() * scale).round().int().tolist()
    line = max(2, round(side / 260))
    size = min(side / 34, 12 + side / 120) * (0.8 if len(corners) > MANY else 1.0)
    letters = font(max(_LEAST, round(size)))
    order = range(len(corners) - 1, -1, -1)
    for i in order:
        _frame(pen, corners[i], colour_of(labels[i]), line)
    covered = np.zeros((picture.height, picture.width), np.int32)
    for i, box in enumerate(corners):  # the best first: later texts avoid it
        _label(pen, box, texts[i], colour_of(labels[i]), letters, line, covered)
    return picture


def _frame(pen: ImageDraw.ImageDraw, box: Sequence[int], colour: Colour, line: int) -> None:
    x1, y1, x2, y2 = _inside(box, pen.im.size)
    # a dark line around the bright one shows on any background
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(20, 20, 20))
    pen.rectangle((x1, y1, x2, y2), outline=colour, width=line)


def _inside(box: Sequence[int], size: tuple[int, int]) -> Place:
    x1, y1, x2, y2 = box
    x1, y1 = min(max(x1, 0), size[0] - 1), min(max(y1, 0), size[1] - 1)
    return x1, y1, max(x1, min(x2, size[0] - 1)), max(y1, min(y2, size[1] - 1))


def _label(
    pen: ImageDraw.ImageDraw,
    box: Sequence[int],
    text: str,
    colour: Colour,
    letters: ImageFont.FreeTypeFont,
    line: int,
    covered: Int32[np.ndarray, "h w"],
) -> None:
    pad = max(2, round(letters.size / 5))
    text = shortened(text, letters, pen.im.size[0] - 2 * pad)
    if not text:
        return
    width, height = round(letters.getlength(text)) + 2 * pad, round(1.25 * letters.size) + pad
    place = _free_place(_inside(box, pen.im.size), (width, height), line, covered)
    covered[_pixels(place)] += 1
    pen.rectangle(place, fill=colour)
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 125
    middle = (place[0] + pad, (place[1] + place[3]) / 2)
    pen.text(middle, text, fill=(15, 15, 15) if dark else (255, 255, 255), font=letters, anchor="lm")


def _free_place(box: Place, size: tuple[int, int], line: int, covered: Int32[np.ndarray, "h w"]) -> Place:
    """Where a text of `size` covers least of the earlier texts: outside the corners of its box first, then inside.

    `covered`: of each pixel of the picture the number of texts on it, so that the work does not grow with their number.
    """
    (x1, y1, x2, y2), (width, height), picture = box, size, covered.shape[::-1]
    above, below = y1 - height, y2 + 1
    spots = [
        (x1, above), (x2 - width + 1, above), (x1, below), (x2 - width + 1, below),
        (x1, y1), (x2 - width + 1, y1), (x1, y2 - height), (x2 - width + 1, y2 - height),
    ]  # fmt: skip
    best: Place | None = None
    least = float("inf")
    for rank, (x, y) in enumerate(spots):
        left = min(max(x, 0), max(0, picture[0] - width))
        top = min(max(y, 0), max(0, picture[1] - height))
        place = (left, top, min(left + width, picture[0]) - 1, min(top + height, picture[1]) - 1)
        moved = abs(top - y) > line  # the border of the picture pushed it away from its corner
        cost = int(covered[_pixels(place)].sum()) + rank * 0.01 * width * height + moved * 0.3 * width * height
        if cost < least:
            best, least = place, cost
    assert best is not None
    return best


def _pixels(place: Place) -> tuple[slice, slice]:
    return slice(place[1], place[3] + 1), slice(place[0], place[2] + 1)
