"""Augmentation: torchvision v2 transforms, and the few that it lacks, as a function of (seed, epoch, image id)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from detr_mini.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detr_mini.errors import ConfigError
from detr_mini.seeding import EVERY_IMAGE, image_seed
from detr_mini.structures import Target
from detr_mini.torch_seeding import seeded

Sample = tuple[Tensor, Tensor]
"""uint8 image (3, h, w) and its boxes (n, 4) xyxy in pixels."""
BESIDE_BOXES = ("labels", "is_crowd", "area")
"""What a target says of each of its boxes."""
LEAST_SIDE = 1.0
"""A box that augmentation has made smaller, to a side below this in pixels, goes, together with its label."""
ROUNDING = 1e-3
"""Pixels by which a side may differ that nothing was done to."""


class Augment:
    """A list of transforms, applied to one image and its target; `strong` ones before them, where they are asked for.

    Each is a torchvision v2 transform, or a callable from `Sample` to `Sample` that keeps the number of boxes (those
    below; some ten times lighter). One with an attribute `draws` also gets a function that gives another sample of the
    set, and puts the boxes of those that it drew behind its own, in order. A box without size is one that went. An
    attribute `cuts` says that things may be cut off: no image with sentences about it takes such a one, or one that
    draws; `moves` says that left or above may change.
    Random numbers come from torch's generator, seeded for the image and restored after: the same (seed, epoch, image
    id) gives the same result in any process, and no other stream moves. One with a true attribute `whole_epoch` draws
    the same for every image of an epoch.
    """

    def __init__(self, transforms: Sequence[Any], seed: int, strong: Sequence[Any] = ()) -> None:
        for name, own in (("augment", transforms), ("augment_strong", strong)):
            for transform in own:
                if not callable(transform):
                    raise ConfigError(f"data.{name} holds {transform!r}, which is no transform; give each a _target_")
        self.transforms, self.strong = tuple(transforms), tuple(strong)
        self.seed = seed

    def __call__(
        self,
        image: UInt8[Tensor, "3 h w"],
        target: Target,
        epoch: int,
        *,
        strong: bool = False,
        draw: Callable[[], tuple[Tensor, Target]] | None = None,
    ) -> tuple[UInt8[Tensor, "3 h2 w2"], Target, int]:
        """The augmented image and target, and how many boxes fell outside of it.

        `draw` gives any sample of the set, by torch's generator; without it, transforms that draw do nothing.
        """
        transforms = (*self.strong, *self.transforms) if strong else self.transforms
        if not transforms:
            return image, target, 0
        boxes = cxcywh_to_xyxy(target.boxes) * _corners(image)
        truths, kept, sides_before = [target], torch.arange(len(boxes)), [_sides(boxes)]

        def another() -> Sample:
            assert draw is not None
            other, truth = draw()
            truths.append(truth)
            drawn = cxcywh_to_xyxy(truth.boxes) * _corners(other)
            sides_before.append(_sides(drawn))
            return other, drawn

        with seeded(image_seed(self.seed, epoch, target.image_id)):
            for transform in transforms:
                whole_epoch = getattr(transform, "whole_epoch", False)
                with seeded(image_seed(self.seed, epoch, EVERY_IMAGE)) if whole_epoch else nullcontext():
                    if isinstance(transform, v2.Transform):
                        image, boxes, kept = _apply_v2(transform, image, boxes, kept)
                    elif not getattr(transform, "draws", False):
                        image, boxes = transform(image, boxes)
                    elif draw is not None:
                        before = sum(len(truth.labels) for truth in truths)
                        image, boxes = transform(image, boxes, another)
                        kept = torch.cat([kept, torch.arange(before, sum(len(truth.labels) for truth in truths))])
        limit = _corners(image)
        boxes = boxes.clamp(min=0).minimum(limit)
        sides = _sides(boxes)
        inside = (sides >= LEAST_SIDE).all(1)
        if not bool(inside.all()):
            least = torch.cat(sides_before)[kept].amin(1) - ROUNDING
            inside |= (sides >= least.clamp(min=ROUNDING)[:, None]).all(1)
        if not bool(inside.all()):
            boxes, kept = boxes[inside], kept[inside]
        boxes = xyxy_to_cxcywh(boxes / limit)
        lost = sum(len(truth.labels) for truth in truths) - len(kept)
        if not lost and len(truths) == 1:
            return image, replace(target, boxes=boxes), 0
        rest: dict[str, Any] = {
            name: torch.cat([getattr(truth, name) for truth in truths])[kept] for name in BESIDE_BOXES
        }
        return image, replace(target, boxes=boxes, **rest), lost


def _apply_v2(
    transform: Callable[[Any], Any], image: Tensor, boxes: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A torchvision transform; `kept` goes along as labels, so that it says which boxes are left."""
    canvas = (image.shape[1], image.shape[2])
    format_ = tv_tensors.BoundingBoxFormat.XYXY
    sample = {
        "image": tv_tensors.Image(image),
        "boxes": tv_tensors.BoundingBoxes(boxes, format=format_, canvas_size=canvas),
        "labels": kept,
    }
    out = transform(sample)
    return out["image"].as_subclass(Tensor), out["boxes"].as_subclass(Tensor), out["labels"]


def _corners(image: Tensor) -> Float[Tensor, "4"]:
    """(width, height, width, height)."""
    height, width = image.shape[1:]
    return torch.tensor([width, height, width, height], dtype=torch.float32)


def _sides(boxes_xyxy: Float[Tensor, "n 4"]) -> Float[Tensor, "n 2"]:
    """Width and height."""
    return boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]


def chance(p: float | int) -> bool:
    """True with probability `p`."""
    return float(torch.rand(())) < p


class RandomHorizontalFlip:
    """Left becomes right with probability `p`."""

    moves = True

    def __init__(self, p: int | float = 0.5) -> None:
        self.p = p

    def __call__(self, image: UInt8[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"]) -> Sample:
        """Flip image and boxes, or give them back."""
        if not chance(self.p):
            return image, boxes
        width = image.shape[2]
        return image.flip(2), torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)


class RandomVerticalFlip:
    """Above becomes below with probability `p`."""

    moves = True

    def __init__(self, p: int | float = 0.5) -> None:
        self.p = p

    def __call__(self, image: UInt8[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"]) -> Sample:
        """Flip image and boxes, or give them back."""
        if not chance(self.p):
            return image, boxes
        height = image.shape[1]
        return image.flip(1), torch.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], 1)


class RandomTranspose:
    """Rows become columns with probability `p`; with both flips, all eight views of a square are equally likely.

    `whole_epoch`: for all images of an epoch or for none, so that batches of images of one shape need no padding.
    """

    moves = True

    def __init__(self, p: int | float = 0.5, whole_epoch: bool = False) -> None:
        self.p, self.whole_epoch = p, whole_epoch

    def __call__(self, image: UInt8[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"]) -> Sample:
        """Swap the axes of image and boxes, or give them back."""
        return (image.transpose(1, 2), boxes[:, [1, 0, 3, 2]]) if chance(self.p) else (image, boxes)


class RandomQuarterTurn:
    """Turned by 0, 90, 180 or 270 degrees, all equally likely: where there is no above, but mirror images do not occur.

    Smaller angles are left out: the upright box around a turned box is larger than the thing, by 9 % a side at 5
    degrees, so that all boxes would be wrong.
    """

    moves = True

    def __call__(self, image: UInt8[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"]) -> Sample:
        """Image and boxes, turned."""
        for _ in range(int(torch.randint(4, ()))):
            width = image.shape[2]
            image = image.transpose(1, 2).flip(1)  # what is on the right goes to the top
            boxes = torch.stack([boxes[:, 1], width - boxes[:, 2], boxes[:, 3], width - boxes[:, 0]], 1)
        return image, boxes


class RandomChannelPermutation:
    """Red, green and blue change places: for data where colour says nothing about the class."""

    def __call__(self, image: UInt8[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"]) -> Sample:
        """The image with its channels in another order; all six orders are equally likely."""
        return image[torch.randperm(3)], boxes


class RandomInversion:
    """The negative, with probability `p`: for data where colour says nothing about the class."""

    def __init__(self, p: int | float = 0.5) -> None:
        self.p = p

    def __call__(self, image: UInt8[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"]) -> Sample:
        """255 minus the image, or the image."""
        return (255 - image if chance(self.p) else image), boxes


class RandomScaleCrop:
    """Scale jitter for a model whose input has a fixed size (Ghiasi et al. 2021, large scale jitter).

    A scale s is drawn, log-uniform in [`least`, `most`]. s > 1: a window of 1/s of each side is cut out, anywhere;
    s < 1: the image is laid somewhere on a canvas 1/s as wide and high, filled with `fill`. The later resize to the
    model's size makes things s times as large. A box whose centre lies outside the window goes (Liu et al. 2016).
    """

    cuts = True

    def __init__(self, least: int | float = 0.5, most: int | float = 2.0, fill: int = 118) -> None:
        if not 0 < least <= most:
            raise ConfigError(f"RandomScaleCrop needs 0 < least <= most, not least={least} and most={most}")
        self.log_range = torch.tensor([least, most]).log().tolist()
        self.fill = fill

    def __call__(self, image: UInt8[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"]) -> Sample:
        """The window or the larger canvas; boxes that fall outside become empty."""
        low, high = self.log_range
        draw = torch.rand(3).tolist()
        scale = float(torch.tensor(low + draw[0] * (high - low)).exp())
        height, width = image.shape[1:]
        new_height, new_width = max(1, round(height / scale)), max(1, round(width / scale))
        top, left = round(draw[1] * abs(height - new_height)), round(draw[2] * abs(width - new_width))
        if scale <= 1:
            canvas = image.new_full((3, new_height, new_width), self.fill)
            canvas[:, top : top + height, left : left + width] = image
            return canvas, boxes + torch.tensor([left, top, left, top])
        boxes = boxes - torch.tensor([left, top, left, top])
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centre > 0) & (centre < torch.tensor([new_width, new_height]))).all(1)
        return image[:, top : top + new_height, left : left + new_width], boxes * inside[:, None]
