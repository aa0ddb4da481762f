"""The operating point: the score threshold, and how much two detections of one category may overlap. Chosen on val."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from detr_mini.errors import ConfigError
from detr_mini.evaluation.metrics.confusion import best_threshold
from detr_mini.evaluation.metrics.duplicate_detections import without_overlaps
from detr_mini.evaluation.metrics.headline import average_precisions
from detr_mini.evaluation.metrics.matching import match
from detr_mini.evaluation.metrics.subset import Subset, evenly_spread
from detr_mini.structures import Categories, OperatingPoint

OVERLAPS = (0.8, 0.7, 0.6, 0.5)
"""IoUs that are tried for suppression. The first suppresses least."""
LEAST_GAIN = 0.001
"""In the mean of AP and AP50: suppression at all, and each lower IoU, must gain at least this."""
FEWEST_OBJECTS = 20
"""In val. With fewer, the best threshold is a matter of chance."""
MOST_IMAGES = 500
"""Of val, evenly spread. They are enough to choose two numbers."""
THRESHOLDS = (0.05, 0.9)
"""The chosen threshold lies between these."""
AUTO = "auto"


def check_overlap(key: str, iou: float | int | str | None) -> None:
    """ConfigError unless `iou`, the value of the setting `key`, is "auto", null or an IoU."""
    if iou is not None and iou != AUTO and not (isinstance(iou, int | float) and 0 < iou <= 1):
        raise ConfigError(f"{key} is {iou!r}; it must be auto, null or an IoU above 0 and at most 1")


def with_overlap(point: OperatingPoint, iou: float | int | str | None) -> OperatingPoint:
    """`point` with a verb's setting `suppress_iou`; "auto" changes nothing. ConfigError as in `check_overlap`."""
    check_overlap("suppress_iou", iou)
    return point if isinstance(iou, str) else replace(point, suppress_iou=iou)


def settled(settings: Mapping[str, Any] | None) -> OperatingPoint:
    """The point of `settings` (`threshold`, `suppress_iou`), with defaults for "auto". ConfigError for other values."""
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
    """The best operating point on these images. A setting that is not "auto" is kept as it is.

    Suppression: the highest IoU that no lower one beats by LEAST_GAIN in the mean of AP and AP50; none where none gains
    that much. Threshold: the best F1 of all categories together at IoU 0.5, after suppression.
    """
    subset = Subset(tuple(evenly_spread(image_ids, MOST_IMAGES)), categories)
    wanted = set(subset.image_ids)
    found: Sequence[Mapping[str, Any]] = [record for record in records if record["image_id"] in wanted]
    if suppress_iou == AUTO:
        suppress_iou = _best_overlap(truth, found, subset)
    assert not isinstance(suppress_iou, str)
    if suppress_iou is not None:
        found = without_overlaps(found, suppress_iou)
    if threshold == AUTO:
        threshold = _best_threshold(truth, found, subset)
    return OperatingPoint(float(threshold), suppress_iou)


def _best_overlap(truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]], subset: Subset) -> float | None:
    def merit(found: Sequence[Mapping[str, Any]]) -> float:
        reached = average_precisions(truth, found, subset)
        return (reached["AP"] + reached["AP50"]) / 2

    best, chosen = merit(records), None
    for iou in OVERLAPS:
        kept = without_overlaps(records, iou)
        if len(kept) == len(records):
            continue
        value = merit(kept)
        if value >= best + LEAST_GAIN:  # false where there is no object, since the values are NaN then
            best, chosen = value, iou
    return chosen


def _best_threshold(truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]], subset: Subset) -> float:
    selected, found = subset.select(truth, records)
    if sum(not annotation.get("iscrowd", 0) for annotation in selected["annotations"]) < FEWEST_OBJECTS:
        return OperatingPoint.threshold
    score, f1 = best_threshold(match(selected, found, subset.categories.ids, subset.image_ids, areas=1))
    if not f1:
        return OperatingPoint.threshold
    low, high = THRESHOLDS
    return min(max(int(score * 100) / 100, low), high)  # rounded down, to keep the detection at the threshold
