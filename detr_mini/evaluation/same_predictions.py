"""Whether a detector says the same of every picture: then it knows where things usually are, and looks at none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.ops import box_iou

from detr_mini.structures import Detections

BEST = 5
"""Detections of each picture that are compared."""
FEWEST, MOST = 4, 64
"""Pictures: of fewer nothing can be said, and of more the first are compared."""
SAME_IOU = 0.9
SHARE = 0.9
"""Of the detections, so many stand in the other pictures, too."""


def hardly_differ(found: Sequence[Detections]) -> bool:
    """Whether nearly all of the best detections stand at the same place, with the same label, in the other pictures.

    Places are shares of the picture's sides. Pictures without a detection are left out.
    """
    pictures = [one[one.scores.argsort(descending=True)[:BEST]] for one in found[:MOST] if len(one)]
    if len(pictures) < FEWEST:
        return False
    places = [one.boxes / torch.tensor([*one.image_size[::-1]] * 2) for one in pictures]
    same, total = 0, 0
    for one, boxes, other, there in zip(pictures, places, pictures[1:], places[1:], strict=False):
        matches = (box_iou(boxes, there) >= SAME_IOU) & (one.labels[:, None] == other.labels[None])
        same += int(matches.any(1).sum())
        total += len(boxes)
    return same >= SHARE * total


def alike_notice(found: Sequence[Detections]) -> str | None:
    """A sentence where the detections hardly differ between pictures; else None."""
    if not hardly_differ(found):
        return None
    return (
        f"warning: the best detections are nearly the same in all {len(found)} pictures; unless the pictures are "
        "alike, the detector has learned where objects usually are and does not look yet: train longer, or begin with "
        "experiment=finetune or init=CHECKPOINT"
    )
