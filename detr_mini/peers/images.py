"""Images as the detectors of `transformers` take them: squares, or any shape with a mask of their padding."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from detr_mini.models.queries import visible_size


@dataclass(frozen=True)
class Canvas:
    """Images of a batch that go through a model together."""

    rows: tuple[int, ...]
    """Their places in the batch."""
    images: Float[Tensor, "r 3 h w"]
    padding_mask: Bool[Tensor, "r h w"] | None = None
    """True on padding; None where there is none."""


def squares(
    images: Float[Tensor, "b 3 h w"], padding_mask: Bool[Tensor, "b h w"] | None, stride: int, *, together: bool
) -> list[Canvas]:
    """Each image without its padding, stretched (bilinear) to the square of its longer side, a multiple of `stride`.

    Boxes are shares of an image, so they stay. `together`: all as large as the largest; else an image's size does not
    depend on its neighbours.
    """
    sizes = visible_sizes(images, padding_mask)
    sides = [-(-max(size) // stride) * stride for size in sizes]
    if together:
        sides = [max(sides)] * len(sides)
    canvases = []
    for side in dict.fromkeys(sides):
        rows = [row for row, its in enumerate(sides) if its == side]
        square = images.new_empty(len(rows), 3, side, side)
        for h, w in {sizes[row] for row in rows}:  # images of one shape are stretched at once
            those = [place for place, row in enumerate(rows) if sizes[row] == (h, w)]
            inside = images[[rows[place] for place in those], :, :h, :w]
            stretch = inside.shape[2:] != (side, side)
            square[those] = interpolate(inside, (side, side), mode="bilinear", antialias=True) if stretch else inside
        canvases.append(Canvas(tuple(rows), square))
    return canvases


def apart(images: Float[Tensor, "b 3 h w"], padding_mask: Bool[Tensor, "b h w"] | None, stride: int) -> list[Canvas]:
    """Images of one shape together, padded no further than to a multiple of `stride`: as each would stand alone."""
    sizes = visible_sizes(images, padding_mask)
    canvases = []
    for h, w in dict.fromkeys(sizes):
        rows = [row for row, size in enumerate(sizes) if size == (h, w)]
        high, wide = -(-h // stride) * stride, -(-w // stride) * stride
        mask = None if padding_mask is None else padding_mask[rows, :high, :wide]
        canvases.append(Canvas(tuple(rows), images[rows, :, :high, :wide], mask))
    return canvases


def visible_sizes(
    images: Float[Tensor, "b 3 h w"], padding_mask: Bool[Tensor, "b h w"] | None
) -> list[tuple[int, int]]:
    """(height, width) in pixels of each image without its padding."""
    if padding_mask is None:
        return [(images.shape[2], images.shape[3])] * len(images)
    return [(int(h), int(w)) for w, h in visible_size(images, padding_mask).tolist()]
