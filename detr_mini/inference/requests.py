"""What every detector does with a request: which images are meant, which scores count, what is returned."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from detr_mini.config.number_settings import percent_hint
from detr_mini.errors import ConfigError, some_of
from detr_mini.inference.detections import Detections
from detr_mini.inference.sources import find_pictures, is_many
from detr_mini.structures import Categories, OperatingPoint
from detr_mini.structures import Detections as PlainDetections

USUAL_LIMIT = 100
"""Detections of an image, as many as COCO's metric counts."""


@runtime_checkable
class DetectorLike(Protocol):
    """What prediction and evaluation ask of a detector: a `Detector`, or a file of `detr-mini export`."""

    @property
    def categories(self) -> Categories: ...
    @property
    def operating_point(self) -> OperatingPoint: ...
    def detect(
        self,
        images: Any,
        caption: str | Sequence[str] | None = None,
        threshold: float | int | None = None,
        limit: int | None = None,
        batch_size: int = 8,
        channels: str = "rgb",
    ) -> Any:
        """See `Detector.detect`."""

    def least_score(
        self, threshold: float | int | None = None, caption: str | Sequence[str] | None = None
    ) -> float: ...
    def categories_of(self, caption: str | Sequence[str] | None) -> Categories: ...


def each_of(images: Any) -> tuple[list[Any], bool]:
    """The images that are meant, and whether it is a single one: a folder or a pattern stands for its pictures."""
    if isinstance(images, str | Path) and is_many(images):
        return [found.path for found in find_pictures(str(images))], False
    if not isinstance(images, list | tuple):
        return [images], True
    given = []
    for image in images:
        many = isinstance(image, str | Path) and is_many(image)
        given += [found.path for found in find_pictures(str(image))] if many else [image]
    return given, False


def checked_score(threshold: float | int) -> float:
    """`threshold`. ConfigError where it is no score."""
    if isinstance(threshold, bool) or not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is {threshold}; it is a score from 0 to 1{percent_hint(threshold)}")
    return float(threshold)


def checked_counts(limit: int, batch_size: int) -> None:
    """ConfigError where one of them is below 1."""
    if limit < 1 or batch_size < 1:
        raise ConfigError(f"limit is {limit} and batch_size is {batch_size}; both must be at least 1")


def described(
    kind: str, categories: Categories, image: Mapping[str, Any], point: OperatingPoint, more: str = ""
) -> str:
    """A detector in one line, for its `repr`."""
    count = f"{len(categories)} categor{'y' if len(categories) == 1 else 'ies'} ({some_of(categories.names, 5)})"
    overlap = "" if point.suppress_iou is None else f", overlaps above {point.suppress_iou:g} suppressed"
    return f"<{kind}: {count}, images of {image['size']} pixels{more}, threshold {point.threshold:g}{overlap}>"


def reported(
    found: Sequence[PlainDetections], images: Sequence[Any], channels: str, least: float, most: int, warn: bool
) -> list[Detections]:
    """The detections of each image with a score of at least `least`, with their image.

    `warn`: warn where an image has `most`, the number of detections that are given.
    """
    kept = [Detections.of(one.above(least), image, channels) for one, image in zip(found, images, strict=True)]
    full = sum(len(detections) == most for detections in kept) if warn else 0
    if full:
        warnings.warn(f"{full} of {len(kept)} images have {most} detections, the most that are given; limit=... "
                      "gives more", stacklevel=3)  # fmt: skip
    return kept
