"""Which detections a user gets: the least score, and how much two of one category may overlap. Chosen on val."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from detr_mini.errors import ConfigError
from detr_mini.evaluation.confusion import best_threshold
from detr_mini.evaluation.doubles import average_precisions, without_overlaps
from detr_mini.evaluation.matching import match
from detr_mini.evaluation.subset import Part
from detr_mini.structures import Categories, OperatingPoint

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


def check_overlap(key: str, iou: float | int | str | None) -> None:
    """ConfigError unless `iou`, the setting `key`, is "auto", null or a share."""
    if iou is not None and iou != AUTO and not (isinstance(iou, int | float) and 0 < iou <= 1):
        raise ConfigError(f"{key} is {iou!r}; it must be auto, null or an IoU above 0 and at most 1")


def with_overlap(point: OperatingPoint, iou: float | int | str | None) -> OperatingPoint:
    """`point`, or what it becomes with the setting `suppress_iou` of a verb. ConfigError as `check_overlap`."""
    check_overlap("suppress_iou", iou)
    return point if isinstance(iou, str) else replace(point, suppress_iou=iou)


def settled(settings: Mapping[str, Any] | None) -> OperatingPoint:
    """What `settings` (`threshold`, `suppress_iou`) say, the defaults for "auto". ConfigError for what is neither."""
    settings = {"threshold": AUTO, "suppress_iou": AUTO, **(settings or {})}
    threshold, iou = settings["threshold"], settings["suppress_iou"]
    check_overlap("operating_point.suppress_iou", iou)
    if threshold != AUTO and not (isinstance(threshold, int | float) and 0 <= threshold <= 1):
        raise ConfigError(f"operating_point.threshold is {threshold!r}; it must be auto or a score from 0 to 1")
    default = OperatingPoint()
    return OperatingPoint(
        default.threshold if threshold == AUTO else float(threshold), default.suppress_iou if iou == AUTO else iou
    )


def choose(
    truth: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
    categories: Categories,
    *,
    threshold: float | int | str = AUTO,
    suppress_iou: float | int | str | None = AUTO,
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
        return OperatingPoint.threshold
    score, f1 = best_threshold(match(there, found, part.categories.ids, part.image_ids, areas=1))
    if not f1:
        return OperatingPoint.threshold
    low, high = THRESHOLDS
    return min(max(int(score * 100) / 100, low), high)  # rounded down: the detection that it was chosen for stays
