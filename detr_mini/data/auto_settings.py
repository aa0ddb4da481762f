"""What a set of boxes asks of a model: images large enough for small objects, enough queries for full images."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from detr_mini.errors import ConfigError
from detr_mini.formats.load_report import Chosen
from detr_mini.formats.split import CocoSet
from detr_mini.images.tiling import SMALL_SIDE, BoxSizes

AUTO = "auto"
"""The word, in a config, for a number that the data choose."""
ALIKE = 0.9
"""Share of the training images that have to be of one shape for windows to have it, too."""
SMALL_SHARE = 0.1
"""Of the boxes, every category counting the same: so many may be smaller than what the size is chosen for."""
STEP, SMALLEST, LARGEST = 32, 224, 640
"""Sizes are multiples of the backbone's deepest stride, in these bounds."""
WIDE_RANGE = 100
"""Between the sides of the largest and the smallest box: more does not fit one image size."""
ROOM = 1.5
"""Queries for each box of the fullest image."""
FEWEST, MOST = 20, 300


def choose_size(coco: CocoSet) -> Chosen:
    """The longest side of images in the model, from the boxes of the training set.

    The smallest multiple of STEP, from SMALLEST to LARGEST, at which all but SMALL_SHARE of the boxes have a shorter
    side of SMALL_SIDE pixels. No box asks for more pixels than its image has: enlarging shows nothing new. Every
    category counts the same, as in AP: a rare small object is not outvoted.
    """
    longest = coco.records.sizes.amax(1).double()
    own = (longest / STEP).floor().clamp(min=1) * STEP
    shares = coco.boxes_xywh[:, 2:].amin(1) / longest[coco.owner]
    small = _small_side(coco, shares)
    if small is None:
        return Chosen(min(SMALLEST, int(own.median())), "there is no box to go by")
    asked = (SMALL_SIDE / shares / STEP).ceil().clamp(min=SMALLEST / STEP) * STEP
    most = _small_side(coco, -asked.minimum(own[coco.owner]))  # negative: the largest come first
    assert most is not None
    size = min(int(-most), LARGEST)
    needed = max(SMALLEST, math.ceil(SMALL_SIDE / small / STEP) * STEP)
    because = (
        f"nine of ten boxes (each category counting the same) are then at least {small * size:.0f} pixels wide and high"
    )
    if size < needed:
        limit = f"{LARGEST} is the most that is chosen" if size == LARGEST else "the images themselves are no larger"
        because += f"; {SMALL_SIDE} would need {needed}, but {limit}"
    return Chosen(size, because)


def sizes_of(coco: CocoSet) -> BoxSizes | None:
    """In pixels of the images; None where there is no box."""
    small = _small_side(coco, coco.boxes_xywh[:, 2:].amin(1))
    if small is None:
        return None
    longer = coco.boxes_xywh[~coco.is_crowd, 2:].amax(1)
    sizes = coco.records.sizes.double()
    image = sizes.amax(1)[coco.owner[~coco.is_crowd]].median()
    large = float(longer.kthvalue(math.ceil((1 - SMALL_SHARE) * len(longer))).values)
    return BoxSizes(float(image), small, large, _shape(sizes))


def _shape(sizes: Float[Tensor, "n 2"]) -> float:
    """Height divided by width of images where ALIKE of them have that shape within a tenth, else 1; 0.5 to 2."""
    shapes = sizes[:, 0] / sizes[:, 1]
    usual = float(shapes.quantile(0.5))
    alike = float(((shapes / usual - 1).abs() <= 0.1).double().mean())
    return min(max(usual, 0.5), 2.0) if alike >= ALIKE else 1.0


def _small_side(coco: CocoSet, sides_of_boxes: Float[Tensor, " n"]) -> float | None:
    """The shorter side of a small box, in the unit of those that are given; None where there is no box."""
    keep = ~coco.is_crowd
    if not bool(keep.any()):
        return None
    sides, order = sides_of_boxes[keep].sort()
    labels = coco.labels[keep]
    weight = 1 / torch.bincount(labels).double()[labels[order]]
    return float(sides[(weight.cumsum(0) / weight.sum()) >= SMALL_SHARE][0])


def range_notice(coco: CocoSet, size: int) -> str | None:
    """A sentence where the largest and the smallest box are so far apart that one size cannot show both; else None."""
    keep = ~coco.is_crowd
    longest = coco.records.sizes.amax(1).double()
    sides = coco.boxes_xywh[keep, 2:].prod(1).sqrt() / longest[coco.owner[keep]]
    if not len(sides) or float(sides.max()) < WIDE_RANGE * float(sides.min()):
        return None
    small, large = float(sides.min()) * size, float(sides.max()) * size
    return (
        f"the largest object is {large / small:.0f} times as large as the smallest ({small:.1f} and {large:.0f} pixels "
        f"at data.size={size}): the smallest will hardly be found; a larger data.size, or cutting the images into "
        "tiles before training, shows them"
    )


def choose_queries(coco: CocoSet) -> Chosen:
    """Object queries, from the most boxes in one training image: ROOM times as many, in tens, from FEWEST to MOST."""
    most = int(coco.objects.max())
    wanted = math.ceil(ROOM * most / 10) * 10
    return Chosen(min(max(wanted, FEWEST), MOST), f"the fullest training image has {most} boxes")


def check_counts(**counts: int | float | str | None) -> None:
    """ConfigError for a count of the data config that is too small; None and AUTO are right where they are choices."""
    for name, value in counts.items():
        least = 0 if name in ("workers", "cache_megabytes") else 1
        may_be_null = name in ("eval_batch_size", "limit_train", "limit_val")
        if (value is None and may_be_null) or (value == AUTO and name in ("size", "batch_size", "workers")):
            continue
        if value is None or isinstance(value, str) or value < least:
            raise ConfigError(f"data.{name} is {'null' if value is None else value}; it must be at least {least}")


def check_shares(*, strong_until: int | float, hold_out: int | float | None) -> None:
    """ConfigError for a share that is not between 0 and 1; none or all of train cannot be held out."""
    for name, share, is_possible in (
        ("strong_until", strong_until, 0 <= strong_until <= 1),
        ("hold_out", hold_out, hold_out is None or 0 < hold_out < 1),
    ):
        if not is_possible:
            raise ConfigError(f"data.{name} is {share}; it must be a share from 0 to 1")
