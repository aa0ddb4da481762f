"""From the pixels of an image to what a model takes: resized, scaled and normalised."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Real, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as F

IMAGE_KEYS = ("size", "shorter_side", "mean", "std", "exact", "multiple", "antialias")
"""What a checkpoint says of its images; the last three only for published detectors."""


def to_model_input(
    image: UInt8[Tensor, "3 h w"],
    size: int,
    shorter_side: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    exact: Sequence[int] | None = None,
    multiple: int = 1,
    antialias: bool = True,
) -> Float[Tensor, "3 h2 w2"]:
    """`image` resized by `target_size` (bilinear, antialiased), scaled to [0, 1] and normalised.

    `exact`: the (height, width) of every image, whatever its shape. `multiple`: sides are cut to multiples of it.
    Without `antialias`, values are not rounded to whole ones either (RF-DETR's way).
    """
    return normalised(resized(image, size, shorter_side, exact, multiple, antialias), mean, std)


def resized(
    image: Real[Tensor, "3 h w"],
    size: int,
    shorter_side: int | None,
    exact: Sequence[int] | None = None,
    multiple: int = 1,
    antialias: bool = True,
) -> Real[Tensor, "3 h2 w2"]:
    """The first half of `to_model_input`. Bytes stay bytes with `antialias` alone."""
    target = target_size((image.shape[1], image.shape[2]), size, shorter_side) if exact is None else tuple(exact)
    target = tuple(max(multiple, side - side % multiple) for side in target)
    if target != tuple(image.shape[1:]):
        image = F.resize(image if antialias else image.float(), list(target), antialias=antialias)
    return image


def normalised(
    image: Real[Tensor, "*batch 3 h w"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "*batch 3 h w"]:
    """The second half of `to_model_input`, on the image's device. There is one rounding a step, so that every device
    gives the same bits. An image that is float32 already is written over."""
    scale = 255 * torch.tensor(std, dtype=torch.float32)[:, None, None]
    shift = torch.tensor(mean, dtype=torch.float32)[:, None, None] * 255
    shift, scale = (pair.to(image.device, non_blocking=True) for pair in (shift, scale))
    return image.float().sub_(shift).div_(scale)  # in place: half the time of three new images


def target_size(image_size: tuple[int, int], size: int, shorter_side: int | None = None) -> tuple[int, int]:
    """The (height, width) to which an image of `image_size` (height, width) is resized for the model.

    Its longest side becomes `size`. With `shorter_side`, DETR's rule applies (Carion et al. 2020, appendix A.4): the
    shorter side becomes `shorter_side`, or less if the longest would exceed `size` (rounding aside).
    """
    height, width = image_size
    short, long = min(height, width), max(height, width)
    if shorter_side is None:
        other = max(1, round(short * size / long))
        return (size, other) if height >= width else (other, size)
    if long / short * shorter_side > size:
        shorter_side = max(1, round(size * short / long))
    if short == shorter_side:
        return height, width
    longer_side = int(shorter_side * long / short)
    return (longer_side, shorter_side) if height >= width else (shorter_side, longer_side)
