"""Which detections a user gets: the least score, and how much two of one category may overlap. Chosen on val."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detr_mini.evaluation.confusion import best_threshold
from detr_mini.evaluation.doubles import average_precisions, without_overlaps
from detr_mini.evaluation.matches import match
from detr_mini.evaluation.subset import Part
from detr_mini.structures import Categories

DEFAULT_THRESHOLD = 0.5
"""The least score where nothing was chosen."""
OVERLAPS = (0.8, 0.7, 0.6, 0.5)
"""IoUs that are tried for suppression, the gentlest first."""
LEAST_GAIN = 0.001
"""Of the mean of AP and AP50, by suppression at all and by each harsher IoU: less does not pay."""
FEWEST_OBJECTS = 20
"""In val: with fewer the best threshold is chance."""
MOST_IMAGES = 500
"""Of val, evenly spread: enough for two numbers."""
THRESHOLDS = (0.05, 0.9)
"""Bounds of the chosen threshold."""
AUTO = "auto"


@dataclass(frozen=True)
class OperatingPoint:
    """What is reported of a detector's guesses."""

    threshold: float = DEFAULT_THRESHOLD
    """The least score."""
    suppress_iou: float | None = None
    """IoU above which the worse of two detections of one category goes (NMS); None: none goes."""


def choose(
    truth: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
    categories: Categories,
    *,
    threshold: float | str = AUTO,
    suppress_iou: float | str | None = AUTO,
) -> OperatingPoint:
    """The operating point that does best on these images, where a setting is "auto"; otherwise the setting itself.

    Suppression: the gentlest IoU that no harsher one beats by LEAST_GAIN in the mean of AP and AP50, or none where none
    gains as much. Threshold: the best F1 of all categories together at IoU 0.5, behind the suppression.
    """
    ids = [image_ids[i * len(image_ids) // MOST_IMAGES] for i in range(MOST_IMAGES)]
    part = Part(tuple(ids if len(image_ids) > MOST_IMAGES else image_ids), categories)
    wanted = set(part.image_ids)
    found: Sequence[Mapping[str, Any]] = [record for record in records if record["image_id"] in wanted]
    if suppress_iou == AUTO:
        suppress_iou = _best_overlap(truth, found, part)
    assert not isinstance(suppress_iou, str)
    if suppress_iou is not None:
        found = without_overlaps(found, suppress_iou)
    if threshold == AUTO:
        threshold = _best_threshold(truth, found, part)
    return OperatingPoint(float(threshold), suppress_iou)


def _best_overlap(truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]], part: Part) -> float | None:
    def merit(found: Sequence[Mapping[str, Any]]) -> float:
        reached = average_precisions(truth, found, part)
        return (reached["AP"] + reached["AP50"]) / 2

    best, chosen = merit(records), None
    for iou in OVERLAPS:
        value = merit(without_overlaps(records, iou))
        if value >= best + LEAST_GAIN:  # never where there is no object: NaN compares as False
            best, chosen = value, iou
    return chosen


def _best_threshold(truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]], part: Part) -> float:
    there, found = part.of(truth, records)
    if sum(not thing.get("iscrowd", 0) for thing in there["annotations"]) < FEWEST_OBJECTS:
        return DEFAULT_THRESHOLD
    score, f1 = best_threshold(match(there, found, part.categories.ids, part.image_ids, areas=1))
    if not f1:
        return DEFAULT_THRESHOLD
    low, high = THRESHOLDS
    return min(max(int(score * 100) / 100, low), high)  # rounded down: the detection that it was chosen for stays
