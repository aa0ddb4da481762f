"""Detections to what other tools read."""

from __future__ import annotations

from typing import Any

import torch

from detr_mini.boxes import xyxy_to_xywh
from detr_mini.errors import UserError
from detr_mini.structures import Detections


def to_coco_records(detections: Detections, image_id: int, decimals: int = 3) -> list[dict[str, Any]]:
    """COCO results records of one image, in the detections' order.

    `bbox` is (left, top, width, height) in pixels, rounded to `decimals`; `category_id` is the data's own id; scores
    have six decimals.
    """
    boxes = torch.round(xyxy_to_xywh(detections.boxes.detach().cpu().double()), decimals=decimals).tolist()
    scores = torch.round(detections.scores.detach().cpu().double(), decimals=6).tolist()
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        for category_id, box, score in zip(detections.category_ids, boxes, scores, strict=True)
    ]


def to_supervision(detections: Detections) -> Any:
    """`supervision.Detections` with the same boxes and scores; `class_id` is the label 0..K-1, names in its data.

    UserError where the package `supervision` is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise UserError(
            "to_supervision needs the package 'supervision', which is not installed; run 'pip install supervision'"
        ) from error
    import numpy as np

    return supervision.Detections(
        xyxy=detections.boxes.detach().cpu().float().numpy(),
        confidence=detections.scores.detach().cpu().float().numpy(),
        class_id=detections.labels.detach().cpu().numpy().astype(int),
        data={"class_name": np.array(detections.names, dtype=object)},
    )
