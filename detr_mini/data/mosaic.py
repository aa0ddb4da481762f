"""Augmentation that cuts: a window around an object, four images in one, two images over each other.

Objects that a window cuts in two keep the part of their box inside, where enough of the box is inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detr_mini.data.augment import Sample, chance
from detr_mini.errors import ConfigError

LEAST_VISIBLE = 0.3
"""Share of a box's area: with less inside a window, the box is dropped."""
LEAST_CANVAS = 8
"""Pixels: an image that is less wide or high stays alone."""


def within(
    boxes: Float[Tensor, "n 4"], left: int, top: int, width: int, height: int, least_visible: float | int
) -> Float[Tensor, "n 4"]:
    """The part of each box (xyxy) inside a window, in the window's pixels.

    Without size where less than `least_visible` of its area is inside.
    """
    inside = (boxes - boxes.new_tensor([left, top, left, top])).clamp(min=0)
    inside = inside.minimum(boxes.new_tensor([width, height, width, height]))
    visible, whole = ((b[:, 2:] - b[:, :2]).prod(1) for b in (inside, boxes))
    whole = whole.clamp(max=width * height)  # what fills the window is all that can be seen there
    return inside * ((visible > 0) & (visible >= least_visible * whole))[:, None]


def filling(
    image: UInt8[Tensor, "3 h w"],
    boxes: Float[Tensor, "n 4"],
    size: tuple[int, int],
    scale: float,
    least_visible: float | int,
) -> tuple[UInt8[Tensor, "3 h2 w2"], Float[Tensor, "n 4"]]:
    """A window of the image, anywhere in it, resized to fill `size` (height, width); its boxes go with it.

    A pixel becomes about `scale` pixels, or more where the whole image would not fill `size`.
    """
    scale = max(scale, size[0] / image.shape[1], size[1] / image.shape[2])
    height, width = (
        min(side, max(1, round(wanted / scale))) for side, wanted in zip(image.shape[1:], size, strict=True)
    )
    top, left = int(torch.randint(image.shape[1] - height + 1, ())), int(torch.randint(image.shape[2] - width + 1, ()))
    window = image[:, top : top + height, left : left + width]
    if (height, width) != size:
        window = F.resize(window, list(size), antialias=True)
    stretch = boxes.new_tensor([size[1] / width, size[0] / height]).repeat(2)
    return window, within(boxes, left, top, width, height, least_visible) * stretch


class RandomWindow:
    """With probability `p`, a window of the image around one of its objects, so that no image loses all its boxes.

    Its sides are the same share of the image's, drawn from [`least`, 1] (Liu et al. 2016, who draw each by itself).
    With the image's own shape it fits into a batch of such images without padding. The object, any one, is inside
    wholly; of others see `within`.
    """

    cuts = True

    def __init__(
        self, p: float | int = 0.5, least: float | int = 0.4, least_visible: float | int = LEAST_VISIBLE
    ) -> None:
        _check_shares(self, least=least, least_visible=least_visible)
        self.p, self.least, self.least_visible = p, least, least_visible

    def __call__(self, image: UInt8[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"]) -> Sample:
        """The window and its boxes, or what was given."""
        if not chance(self.p):
            return image, boxes
        height, width = image.shape[1:]
        there = torch.nonzero((boxes[:, 2:] > boxes[:, :2]).all(1))[:, 0]
        box = boxes[there[torch.randint(len(there), ())]].tolist() if len(there) else [0.0] * 4
        drawn = self.least + (1 - self.least) * float(torch.rand(()))
        share = max(drawn, (box[2] - box[0]) / width, (box[3] - box[1]) / height)
        left, width = _stretch(width, share, box[0], box[2])
        top, height = _stretch(height, share, box[1], box[3])
        window = image[:, top : top + height, left : left + width]
        return window, within(boxes, left, top, width, height, self.least_visible)


def _stretch(side: int, share: float, begin: float, end: float) -> tuple[int, int]:
    """Where a stretch of `side` pixels begins that holds those from `begin` to `end`, anywhere; and its length."""
    first, last = max(0, math.floor(begin)), min(side, math.ceil(end))
    length = min(side, max(round(share * side), last - first, 1))
    low, high = max(0, last - length), min(first if last > first else side, side - length)
    return low + int(torch.randint(high - low + 1, ())), length


class Mosaic:
    """With probability `p`, four images in one (Bochkovskiy et al. 2020): this and three others of the set.

    Their quarters meet somewhere in the middle half of this image's canvas; each is filled by a window of its image.
    An image's own scale, its longest side as long as this one's, is multiplied by a factor drawn from `scales`
    (log-uniform), or by more where it would not fill its quarter. So things are met smaller, beside other things, and
    cut off. Boxes: see `within`.
    """

    draws = True

    def __init__(
        self,
        p: float | int = 0.5,
        scales: tuple[float | int, float | int] | list[float | int] = (0.5, 1.0),
        least_visible: float | int = LEAST_VISIBLE,
    ) -> None:
        _check_shares(self, least_visible=least_visible)
        if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
            raise ConfigError(f"Mosaic needs scales [least, most] above 0, not {list(scales)}")
        self.p, self.log_scales, self.least_visible = p, [math.log(scale) for scale in scales], least_visible

    def __call__(
        self, image: UInt8[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"], draw: Callable[[], Sample]
    ) -> Sample:
        """The four and their boxes, or what was given."""
        height, width = image.shape[1:]
        if not chance(self.p) or min(height, width) < LEAST_CANVAS:
            return image, boxes
        places = (0.25 + 0.5 * torch.rand(2)).tolist()
        y, x = (min(side - 1, max(1, round(side * p))) for side, p in zip((height, width), places, strict=True))
        quarters = [(0, 0, y, x), (0, x, y, width - x), (y, 0, height - y, x), (y, x, height - y, width - x)]
        canvas, found = torch.empty_like(image), list[Tensor]()
        for which in torch.randperm(4).tolist():
            top, left, *size = quarters[which]
            other, theirs = draw() if found else (image, boxes)
            low, high = self.log_scales
            scale = math.exp(low + (high - low) * float(torch.rand(()))) * _own_scale(other, image)
            part, theirs = filling(other, theirs, (size[0], size[1]), scale, self.least_visible)
            canvas[:, top : top + size[0], left : left + size[1]] = part
            there = (theirs[:, 2:] > theirs[:, :2]).all(1)
            found.append((theirs + theirs.new_tensor([left, top, left, top])) * there[:, None])
        return canvas, torch.cat(found)


class Mixup:
    """With probability `p`, another image of the set laid over this one, each about half visible; all boxes count.

    Zhang et al. 2018; for detectors Zhang et al. 2019. Where there are boxes and no outlines this is what copying and
    pasting things is with outlines: a pasted rectangle would bring its background along, and its straight edge is
    the box, so that a detector would learn to find edges of rectangles. What is laid over everything gives no box away.
    """

    draws = True

    def __init__(self, p: float | int = 0.1, least_visible: float | int = LEAST_VISIBLE) -> None:
        _check_shares(self, least_visible=least_visible)
        self.p, self.least_visible = p, least_visible

    def __call__(
        self, image: UInt8[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"], draw: Callable[[], Sample]
    ) -> Sample:
        """Both images and their boxes, or what was given."""
        if not chance(self.p) or min(image.shape[1:]) < LEAST_CANVAS:
            return image, boxes
        other, theirs = draw()
        size = (image.shape[1], image.shape[2])
        other, theirs = filling(other, theirs, size, _own_scale(other, image), self.least_visible)
        share = 0.4 + 0.2 * float(torch.rand(()))
        return torch.lerp(other.float(), image.float(), share).round_().to(torch.uint8), torch.cat([boxes, theirs])


def _own_scale(other: Tensor, image: Tensor) -> float:
    """What makes the longest side of `other` as long as that of `image`, as in the model."""
    return max(image.shape[1:]) / max(other.shape[1:])


def _check_shares(transform: object, **shares: float | int) -> None:
    for name, share in shares.items():
        if not 0 < share <= 1:
            raise ConfigError(f"{type(transform).__name__} needs {name} above 0 and at most 1, not {share}")
