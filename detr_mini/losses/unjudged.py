"""Regions of which nobody knows whether an object of a category is there: a guess of it there costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from detr_mini.boxes import box_iou, cxcywh_to_xyxy
from detr_mini.structures import DetectorOutput, Prediction, Target

UNLIKELY = -12.0
"""A logit whose loss and gradient are next to nothing, for a sigmoid and in a softmax."""
SAME_PLACE = 0.5
"""IoU from which a guess is of the region."""


def without_unjudged(output: DetectorOutput, targets: Sequence[Target]) -> DetectorOutput:
    """`output`, in which a guess at a crowd region of the targets (IoU over SAME_PLACE) says nothing of its category.

    Its logit there is a small constant without a gradient, so no loss counts it. The outputs of other libraries stay
    as they are.
    """
    regions = [(target.boxes[target.is_crowd], target.labels[target.is_crowd]) for target in targets]
    if output.peer or not any(len(labels) for _, labels in regions):
        return output

    def hidden(prediction: Prediction) -> Prediction:
        return replace(prediction, logits=_hidden(prediction, regions))

    return replace(
        output,
        logits=hidden(output.final).logits,
        auxiliary=tuple(hidden(layer) for layer in output.auxiliary),
        proposals=None if output.proposals is None else hidden(output.proposals),
        one_to_many=None if output.one_to_many is None else hidden(output.one_to_many),
    )


def _hidden(prediction: Prediction, regions: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    logits = prediction.logits
    boxes = cxcywh_to_xyxy(prediction.boxes.detach().float())
    hide = torch.zeros_like(logits, dtype=torch.bool)
    for row, (places, labels) in enumerate(regions):  # a picture has few such regions, and most have none
        if len(labels):
            near = box_iou(boxes[row], cxcywh_to_xyxy(places.to(boxes))) > SAME_PLACE
            query, region = near.nonzero(as_tuple=True)
            hide[row, query, labels.to(query.device)[region]] = True
    return torch.where(hide, UNLIKELY, logits)
