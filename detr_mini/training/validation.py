"""One evaluation on val during training: every process detects its share, the first one scores all shares together.

The detections of the best evaluation stay in the first process, so that val is not detected again at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from detr_mini.evaluation.metrics.coco import Scores, has_fast_library, score
from detr_mini.evaluation.metrics.duplicate_detections import without_overlaps
from detr_mini.evaluation.metrics.grounding import Answer, best_threshold, grounding_metrics
from detr_mini.evaluation.metrics.operating_point import AUTO, choose
from detr_mini.formats.split import CocoSet
from detr_mini.inference.detections import to_coco_records
from detr_mini.pretrained.checkpoints import operating_point
from detr_mini.structures import Categories, Detections, OperatingPoint


@dataclass
class Collected:
    """Detections, answers to captions, and losses on some images of val."""

    found: dict[int, Detections] = field(default_factory=dict)
    """Detections by image id."""
    answers: dict[int, list[Answer]] = field(default_factory=dict)
    """Answers to the captions, by image id."""
    loss: float = 0.0
    """Summed over the boxes."""
    boxes: int = 0

    def of_all_processes(self, world_size: int, rank: int) -> Collected | None:
        """In the first process the collections of all, merged: scores do not depend on how many share val."""
        if world_size == 1:
            return self
        shares: list[Any] | None = None if rank else [None] * world_size
        torch.distributed.gather_object(self, shares, dst=0)
        if shares is None:
            return None
        merged = Collected()
        for share in shares:
            merged.found |= share.found
            merged.answers |= share.answers
            merged.loss += share.loss
            merged.boxes += share.boxes
        return merged

    @property
    def answers_in_order(self) -> list[Answer]:
        """By image id."""
        return [answer for image_id in sorted(self.answers) for answer in self.answers[image_id]]


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
    collected: Collected | None = None
    """What was measured; in the first process only."""

    @classmethod
    def of_all(
        cls, own: Collected, truth: CocoSet, categories: Categories, settings: Mapping[str, Any], world: int, rank: int
    ) -> Validation:
        """Score the collections of all processes in the first one, and send the result to the others."""
        collected = own.of_all_processes(world, rank)
        found = None if collected is None else scored(collected, truth, categories, settings)
        if world > 1:
            sent = [None if found is None else replace(found, collected=None)]
            torch.distributed.broadcast_object_list(sent, src=0)
            found = found or sent[0]
        assert found is not None
        return found


@dataclass(frozen=True)
class Measured:
    """What a checkpoint holds of the latest validation."""

    point: OperatingPoint
    threshold: float | None = None
    scores: dict[str, Any] | None = None

    @classmethod
    def by(cls, validation: Validation) -> Measured:
        """Of this one."""
        return cls(validation.point, validation.threshold, dict(validation.scores.metrics))

    def restored(self, checkpoint: Mapping[str, Any], point_settings: Mapping[str, Any]) -> Measured:
        """What `checkpoint` holds. Of the operating point, what `point_settings` fix stays as it is here."""
        fixed = {name: getattr(self.point, name) for name, value in point_settings.items() if value != AUTO}
        point = replace(operating_point(checkpoint), **fixed)
        return Measured(point, checkpoint.get("threshold"), checkpoint["progress"].get("scores"))


def scored(
    collected: Collected, truth: CocoSet, categories: Categories, point_settings: Mapping[str, Any]
) -> Validation:
    """Score a collection against `truth`. A sanity pass sees only some images and is scored on those."""
    ids = [image_id for image_id in truth.image_ids if image_id in collected.found]
    found: Sequence[Mapping[str, Any]] = [
        record for image_id in ids for record in to_coco_records(collected.found[image_id], image_id)
    ]
    point = choose(truth.truth, found, ids, categories, **point_settings)
    if point.suppress_iou is not None:
        found = without_overlaps(found, point.suppress_iou)
    scores = score(truth.truth, found, categories, None if len(ids) == len(truth) else ids, 100, has_fast_library())
    threshold = None
    if collected.answers:
        in_order = collected.answers_in_order
        threshold = best_threshold(in_order)
        scores.metrics.update(grounding_metrics(in_order, threshold))
    return Validation(scores, collected.loss / max(collected.boxes, 1), point, threshold, collected)
