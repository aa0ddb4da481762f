"""One evaluation on val during training: every process collects its share, then all shares are scored together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from detr_mini.evaluation.metrics.coco import Scores, score
from detr_mini.evaluation.metrics.duplicate_detections import without_overlaps
from detr_mini.evaluation.metrics.grounding import Answer, best_threshold, grounding_metrics
from detr_mini.evaluation.metrics.operating_point import choose
from detr_mini.formats.split import CocoSet
from detr_mini.structures import Categories, OperatingPoint


@dataclass
class Collected:
    """Detections, answers to captions, and losses on some images of val."""

    records: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """COCO records of the detections, by image id."""
    answers: dict[int, list[Answer]] = field(default_factory=dict)
    """Answers to the captions, by image id."""
    loss: float = 0.0
    """Summed over the boxes."""
    boxes: int = 0

    def of_all_processes(self, world_size: int) -> Collected:
        """The collections of all processes merged: scores do not depend on how many processes share val."""
        if world_size == 1:
            return self
        shares: list[Any] = [None] * world_size
        torch.distributed.all_gather_object(shares, self)
        merged = Collected()
        for share in shares:
            merged.records |= share.records
            merged.answers |= share.answers
            merged.loss += share.loss
            merged.boxes += share.boxes
        return merged


@dataclass(frozen=True)
class Validation:
    """What one evaluation measured and chose."""

    scores: Scores
    loss: float
    """Mean over the boxes of val."""
    point: OperatingPoint
    """The score threshold and the overlap suppression that did best, or those that the settings fix."""
    threshold: float | None
    """The best threshold for a phrase's score; None for data without captions."""


def scored(
    collected: Collected, truth: CocoSet, categories: Categories, point_settings: Mapping[str, Any]
) -> Validation:
    """Score a collection against `truth`. A sanity pass sees only some images and is scored on those."""
    ids = [image_id for image_id in truth.image_ids if image_id in collected.records]
    found: Sequence[Mapping[str, Any]] = [record for image_id in ids for record in collected.records[image_id]]
    point = choose(truth.truth, found, ids, categories, **point_settings)
    if point.suppress_iou is not None:
        found = without_overlaps(found, point.suppress_iou)
    scores = score(truth.truth, found, categories, None if len(ids) == len(truth) else ids)
    threshold = None
    if collected.answers:
        in_order = [answer for image_id in sorted(collected.answers) for answer in collected.answers[image_id]]
        threshold = best_threshold(in_order)
        scores.metrics.update(grounding_metrics(in_order, threshold))
    return Validation(scores, collected.loss / max(collected.boxes, 1), point, threshold)
