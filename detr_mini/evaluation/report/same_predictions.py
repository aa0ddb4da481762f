"""Whether a detector predicts the same for every image: it then knows where objects usually are, and looks at none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.ops import box_iou

from detr_mini.structures import Detections

BEST = 5
"""The number of best detections of each image that are compared."""
FEWEST, MOST = 4, 64
"""Fewer images prove nothing; of more, the first are compared."""
SAME_IOU = 0.9
SHARE = 0.9
"""The share of detections that must recur in the next image."""


def predictions_hardly_differ(found: Sequence[Detections]) -> bool:
    """Whether nearly all of the best detections recur in the next image, with the same label at the same place.

    Places are relative to the image's size. Images without a detection are left out.
    """
    images = [one[one.scores.argsort(descending=True)[:BEST]] for one in found[:MOST] if len(one)]
    if len(images) < FEWEST:
        return False
    places = [one.boxes / torch.tensor([*one.image_size[::-1]] * 2) for one in images]
    same, total = 0, 0
    for one, boxes, following, its_boxes in zip(images, places, images[1:], places[1:], strict=False):
        matches = (box_iou(boxes, its_boxes) >= SAME_IOU) & (one.labels[:, None] == following.labels[None])
        same += int(matches.any(1).sum())
        total += len(boxes)
    return same >= SHARE * total


def same_predictions_warning(found: Sequence[Detections]) -> str | None:
    """A warning if the detections hardly differ between images, else None."""
    if not predictions_hardly_differ(found):
        return None
    images = f"all {len(found)} images" if len(found) < MOST else f"the first {MOST} images"
    return (
        f"warning: the best detections are nearly the same in {images}. Unless the images look alike, "
        "the detector only knows where objects usually are: train longer, or start with experiment=finetune or "
        "init=CHECKPOINT"
    )
