"""What every detector does with a request: which images are meant, which scores count, what is returned."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from detr_mini.config.number_settings import percent_hint
from detr_mini.errors import ConfigError, DataError, some_of
from detr_mini.inference.detections import Detections
from detr_mini.inference.sources import find_pictures, is_many
from detr_mini.structures import Categories, OperatingPoint
from detr_mini.structures import Detections as PlainDetections

Item = TypeVar("Item")
USUAL_LIMIT = 100
"""Detections of an image, as many as COCO's metric counts."""
MANY = 1000
"""Detections of an image where they become labels: more than a person would draw."""


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter; the items are asked for as the lists are."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


@runtime_checkable
class DetectorLike(Protocol):
    """What prediction and evaluation ask of a detector: a `Detector`, or a file of `detr-mini export`."""

    @property
    def categories(self) -> Categories: ...
    @property
    def operating_point(self) -> OperatingPoint: ...
    @property
    def image(self) -> Mapping[str, Any]: ...
    @property
    def most(self) -> int | None:
        """The most detections of an image that `limit` may ask for; None: as many as there are."""

    def detect(
        self,
        images: Any,
        caption: str | Sequence[str] | None = None,
        threshold: float | int | None = None,
        limit: int | None = None,
        batch_size: int = 8,
        channels: str = "rgb",
        tiles: int | str | None = None,
        overlap: float | int = 0.2,
    ) -> Any:
        """See `Detector.detect`."""

    def least_score(
        self, threshold: float | int | None = None, caption: str | Sequence[str] | None = None
    ) -> float: ...
    def categories_of(self, caption: str | Sequence[str] | None) -> Categories: ...


def readable(
    items: Iterable[Item], load: Callable[[Item], Any], note: Callable[[Item, DataError], object]
) -> Iterator[tuple[Item, Any]]:
    """Each item with its pixels, as `load` reads them; `note` is called for those that cannot be read."""
    for item in items:
        try:
            yield item, load(item)
        except DataError as error:
            note(item, error)


def ignored(item: object, error: DataError) -> None:
    """For `readable`: what cannot be read is skipped without a word, because something else reports it."""


def found_in_each(
    detector: DetectorLike,
    items: Iterable[Item],
    load: Callable[[Item], Any],
    note: Callable[[Item, DataError], object],
    threshold: float | int,
    batch_size: int = 8,
) -> Iterator[tuple[Item, Any]]:
    """Each readable item (see `readable`) with all that is found in its picture, up to `MANY` detections."""
    limit = at_most(detector, MANY)
    for batch in in_batches(items, batch_size):
        read = list(readable(batch, load, note))
        pixels = [image for _, image in read]
        found = detector.detect(pixels, threshold=threshold, limit=limit, batch_size=batch_size) if read else ()
        yield from ((item, one) for (item, _), one in zip(read, found, strict=True))


def at_most(detector: DetectorLike, limit: int) -> int:
    """`limit`, or what an exported file gives where that is less."""
    return limit if detector.most is None else min(limit, detector.most)


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


def checked_counts(limit: int | None, batch_size: int) -> None:
    """ConfigError where one of them is below 1. `limit`: None for no limit."""
    for key, count in (("limit", limit), ("batch_size", batch_size)):
        if count is not None and count < 1:
            raise ConfigError(f"{key} is {count}; it must be at least 1")


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
