"""Detections that report an object a second time, and what suppressing overlaps behind the detector would gain.

A set predictor learns to report each object once. Doubles among the detections above the threshold, and a positive gain
by non-maximum suppression (NMS), say how far it is from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from pycocotools import mask
from torchvision.ops import batched_nms

from detr_mini.boxes import xywh_to_xyxy
from detr_mini.evaluation.average_precision import WeightedAP
from detr_mini.evaluation.headline import readings
from detr_mini.evaluation.matching import assign, by_pair, match
from detr_mini.evaluation.subset import Part

ALIKE, FOUND_AT = 0.7, 0.5
"""IoU above which two detections of one category are alike, and from which a detection finds an object."""
SUPPRESSED = 0.6
"""IoU above which NMS drops the detection with the lower score."""


def doubles(
    truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]], part: Part, threshold: float
) -> dict[str, Any]:
    """`detections_at_threshold`: how many of `records` have at least that score; `doubles`: the share that repeats one.

    A detection is a double where one of the same image and category with a higher score overlaps it by an IoU above 0.7
    and the two do not find two different objects (matched one to one, the best score first, from an IoU of 0.5 on).
    However many better ones it repeats, it counts once. Crowd regions hold several objects: what lies in one is no
    double. The share is None where nothing reaches the threshold.
    """
    there, found = part.of(truth, [record for record in records if record["score"] >= threshold])
    place = {image_id: i for i, image_id in enumerate(part.image_ids)}
    objects = by_pair(there["annotations"], place)
    repeated = sum(
        int(_repeats(objects.get(pair, []), detections).sum())
        for pair, detections in by_pair(found, place).items()
        if len(detections) > 1
    )
    return {"doubles": repeated / len(found) if found else None, "detections_at_threshold": len(found)}


def _repeats(objects: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> Bool[np.ndarray, "d"]:
    """Which detections of one image and category repeat a better one; the best score comes first."""
    ordered = sorted(found, key=lambda record: -record["score"])
    boxes = np.array([record["bbox"] for record in ordered], float)
    alike = np.triu(mask.iou(boxes, boxes, [0] * len(boxes)) > ALIKE, 1)
    if objects and alike.any():
        crowd = np.array([int(thing.get("iscrowd", 0)) for thing in objects], np.uint8)
        iou = mask.iou(boxes, np.array([thing["bbox"] for thing in objects], float), crowd.tolist())
        taken = assign(iou, crowd > 0, crowd[None] > 0, np.array([FOUND_AT]))[0, 0]
        finds, in_crowd = taken >= 0, (taken >= 0) & (crowd[taken] > 0)
        two_objects = finds[:, None] & finds & (taken[:, None] != taken)
        alike &= ~(two_objects | in_crowd[:, None] | in_crowd)
    return alike.any(0)


def without_overlaps(records: Sequence[Mapping[str, Any]], iou: float = SUPPRESSED) -> list[Mapping[str, Any]]:
    """`records` after NMS within each image and category: none overlaps a better one by an IoU above `iou`."""
    if not records:
        return []
    groups: dict[tuple[int, int], int] = {}
    group = [groups.setdefault((record["image_id"], record["category_id"]), len(groups)) for record in records]
    boxes = xywh_to_xyxy(torch.tensor([record["bbox"] for record in records], dtype=torch.float64))
    scores = torch.tensor([record["score"] for record in records], dtype=torch.float64)
    return [records[i] for i in sorted(batched_nms(boxes, scores, torch.tensor(group), iou).tolist())]


def nms_gain(
    truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]], part: Part, limit: int = 100
) -> dict[str, float | None]:
    """What AP and AP50 gain (keys `nms_AP`, `nms_AP50`) by NMS at an IoU of 0.6; None where they are undefined."""
    before = average_precisions(truth, records, part, limit)
    after = average_precisions(truth, without_overlaps(records), part, limit)
    gains = {f"nms_{name}": after[name] - before[name] for name in ("AP", "AP50")}
    return {name: None if np.isnan(gain) else gain for name, gain in gains.items()}


def average_precisions(
    truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]], part: Part, limit: int = 100
) -> dict[str, float]:
    """AP, AP50 and so on of `records`, by name, NaN where undefined, without the ranges of area: quick."""
    there, found = part.of(truth, records)
    matches = match(there, found, part.categories.ids, part.image_ids, limit, areas=1)
    values = WeightedAP(matches)(np.ones((1, len(part.image_ids)), np.int64))
    return {name: float(value[0]) for name, value in readings(values, part.categories.names).items()}
