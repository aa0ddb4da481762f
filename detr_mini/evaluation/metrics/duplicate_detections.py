"""Detections that report an object a second time, and how much suppressing overlaps after the detector would gain.

A set predictor learns to report each object once. Duplicates above the threshold, and a positive gain from
non-maximum suppression (NMS), show how far it is from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torchvision.ops import nms

from detr_mini.boxes import xywh_to_xyxy
from detr_mini.evaluation.metrics.headline import average_precisions
from detr_mini.evaluation.metrics.matching import assign, by_pair, overlaps
from detr_mini.evaluation.metrics.subset import Subset

DUPLICATE_IOU, MATCH_IOU = 0.7, 0.5
"""Two detections of one category above the first may be duplicates; at the second, a detection finds an object."""
NMS_IOU = 0.6
"""NMS drops a detection that overlaps a better one by more than this IoU."""


def duplicate_metrics(
    truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]], subset: Subset, threshold: float
) -> dict[str, Any]:
    """`detections_at_threshold`: the number of `records` with at least that score; `doubles`: the share of duplicates.

    A detection is a duplicate if a better one of the same image and category overlaps it by an IoU above 0.7, unless
    the two find two different objects (matched one to one, best score first, from IoU 0.5). It counts once, however
    many better ones it repeats. A detection inside a crowd region is no duplicate, since the region holds several
    objects. The share is None where no detection reaches the threshold.
    """
    selected, found = subset.select(truth, [record for record in records if record["score"] >= threshold])
    place = {image_id: i for i, image_id in enumerate(subset.image_ids)}
    objects = by_pair(selected["annotations"], place)
    repeated = sum(
        int(_duplicates(objects.get(pair, []), detections).sum())
        for pair, detections in by_pair(found, place).items()
        if len(detections) > 1
    )
    return {"doubles": repeated / len(found) if found else None, "detections_at_threshold": len(found)}


def _duplicates(objects: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> Bool[np.ndarray, " d"]:
    """Which detections of one image and category repeat a better one; in the result the best score comes first."""
    ordered = sorted(found, key=lambda record: -record["score"])
    repeats = np.triu(overlaps(ordered, ordered)[0] > DUPLICATE_IOU, 1)
    if objects and repeats.any():
        iou, crowd = overlaps(ordered, objects)
        taken = assign(iou, crowd, crowd[None], np.array([MATCH_IOU]))[0, 0]
        finds, in_crowd = taken >= 0, (taken >= 0) & crowd[taken]
        two_objects = finds[:, None] & finds & (taken[:, None] != taken)
        repeats &= ~(two_objects | in_crowd[:, None] | in_crowd)
    return np.asarray(repeats.any(0))


def without_overlaps(records: Sequence[Mapping[str, Any]], iou: float = NMS_IOU) -> list[Mapping[str, Any]]:
    """`records` after NMS within each image and category: none overlaps a better one by an IoU above `iou`."""
    if not records:
        return []
    _, image = np.unique([record["image_id"] for record in records], return_inverse=True)
    _, category = np.unique([record["category_id"] for record in records], return_inverse=True)
    boxes = xywh_to_xyxy(torch.tensor([record["bbox"] for record in records], dtype=torch.float64))
    apart = boxes + torch.from_numpy(category)[:, None] * (boxes.max() - boxes.min() + 1)
    scores = torch.tensor([record["score"] for record in records], dtype=torch.float64)
    order = torch.from_numpy(np.argsort(image, kind="stable"))
    kept = [own[nms(apart[own], scores[own], iou)] for own in order.split(np.bincount(image).tolist())]
    return [records[i] for i in sorted(torch.cat(kept).tolist())]


def nms_gain(
    truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]], subset: Subset, limit: int = 100
) -> dict[str, float | None]:
    """How much AP and AP50 gain (keys `nms_AP`, `nms_AP50`) from NMS at IoU 0.6; None where they are undefined."""
    before = average_precisions(truth, records, subset, limit)
    after = average_precisions(truth, without_overlaps(records), subset, limit)
    gains = {f"nms_{name}": after[name] - before[name] for name in ("AP", "AP50")}
    return {name: None if np.isnan(gain) else gain for name, gain in gains.items()}
