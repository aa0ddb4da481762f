"""Which detection finds which object, matched once per image; the basis of intervals, tests and error types.

The rules are COCOeval's (pycocotools). Within an image and category, detections choose in the order of their scores.
Each takes the free object with the largest IoU, and the last one of equals. Objects that do not count (crowd regions,
sizes outside the range) are taken only where no other is left. An image's matches depend on that image alone, so AP on
any selection of images, repeats included, follows without matching again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int8
from pycocotools import mask

from detr_mini.data.statistics import LARGE, SMALL

IOUS, RECALLS = np.linspace(0.5, 0.95, 10), np.linspace(0.0, 1.0, 101)
"""COCO's ten IoU thresholds and 101 recalls, by COCOeval's own formulas."""
AREA_RANGES = ((0.0, 1e10), (0.0, SMALL), (SMALL, LARGE), (LARGE, 1e10))
"""In square pixels: all, small, medium, large (both ends belong to a range, as in COCOeval)."""
FOUND, FALSE_POSITIVE, IGNORED = 1, 0, -1


@dataclass(frozen=True)
class Ranking:
    """All detections of one category, best score first, matched for one area range."""

    image: Int[np.ndarray, " d"]
    """The index of each detection's image in `Matches.image_ids`."""
    score: Float[np.ndarray, " d"]
    state: Int8[np.ndarray, "t d"]
    """FOUND, FALSE_POSITIVE or IGNORED (neither right nor wrong), by IoU threshold."""
    truths: Int[np.ndarray, " i"]
    """The number of objects that count, by image."""


@dataclass(frozen=True)
class Matches:
    """The detections of some images, matched to the ground truth."""

    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]
    rankings: tuple[tuple[Ranking, ...], ...]
    """By category, then by area range (`AREA_RANGES`, or the first few)."""

    def take(self, images: Int[np.ndarray, " n"]) -> Matches:
        """The matches of these images (indices). An index that repeats counts as another image each time."""
        chosen = np.asarray(images)
        rankings = tuple(tuple(_taken(ranking, chosen) for ranking in ranges) for ranges in self.rankings)
        return Matches(tuple(self.image_ids[i] for i in chosen), self.category_ids, rankings)


def match(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    category_ids: Sequence[int],
    image_ids: Sequence[int],
    limit: int = 100,
    areas: int = len(AREA_RANGES),
) -> Matches:
    """Match `results` (COCO records) to `truth` (a COCO file's content), for these categories and images.

    `limit`: the number of best detections per image and category that take part. `areas`: how many of AREA_RANGES.
    """
    place = {image_id: i for i, image_id in enumerate(image_ids)}
    found, ranges = _Found.of(results, place, category_ids, limit), np.array(AREA_RANGES[:areas])
    outside = _outside(found.boxes[:, 2] * found.boxes[:, 3], ranges)
    state = np.repeat(np.where(outside, IGNORED, FALSE_POSITIVE).astype(np.int8)[:, None], len(IOUS), axis=1)
    truths = np.zeros((len(category_ids), areas, len(image_ids)), np.int64)
    rank_of = {category: k for k, category in enumerate(category_ids)}
    for (image, category), objects in by_pair(truth["annotations"], place).items():
        k = rank_of.get(category)
        if k is None:
            continue
        crowd = _crowd(objects)
        area = np.array([record.get("area", record["bbox"][2] * record["bbox"][3]) for record in objects], float)
        ignored_truth = _outside(area, ranges) | crowd
        truths[k, :, image] = (~ignored_truth).sum(1)
        own = found.of_pair(k, image)
        if own.stop > own.start:
            taken = assign(_overlaps(found.boxes[own], objects, crowd), crowd, ignored_truth, IOUS)
            a, t, d = np.nonzero(taken >= 0)
            state[a, t, own.start + d] = np.where(ignored_truth[a, taken[a, t, d]], IGNORED, FOUND)
    rankings = [_ranked(found, found.of_category(k), state, truths[k]) for k in range(len(category_ids))]
    return Matches(tuple(image_ids), tuple(category_ids), tuple(rankings))


@dataclass(frozen=True)
class _Found:
    """Detections by category, then by image, then by score, the best first; of equal scores the first stays first."""

    key: Int[np.ndarray, " d"]
    """Category times the number of images, plus image (both by index)."""
    image: Int[np.ndarray, " d"]
    score: Float[np.ndarray, " d"]
    boxes: Float[np.ndarray, "d 4"]
    images: int

    @classmethod
    def of(
        cls, records: Sequence[Mapping[str, Any]], place: Mapping[int, int], category_ids: Sequence[int], limit: int
    ) -> _Found:
        """The best `limit` of each image and category."""
        rank_of = {category: k for k, category in enumerate(category_ids)}
        records = [r for r in records if r["image_id"] in place and r["category_id"] in rank_of]
        image = np.array([place[record["image_id"]] for record in records], np.int64)
        key = np.array([rank_of[record["category_id"]] for record in records], np.int64) * len(place) + image
        score = np.array([record["score"] for record in records], float)
        order = np.lexsort((-score, key))
        key = key[order]
        within = np.arange(len(key)) - np.searchsorted(key, key)
        order, key = order[within < limit], key[within < limit]
        boxes = np.array([records[i]["bbox"] for i in order], float).reshape(-1, 4)
        return cls(key, image[order], score[order], boxes, len(place))

    def of_pair(self, category: int, image: int) -> slice:
        first = category * self.images + image
        return slice(*np.searchsorted(self.key, (first, first + 1)).tolist())

    def of_category(self, category: int) -> slice:
        return slice(*np.searchsorted(self.key, (category * self.images, (category + 1) * self.images)).tolist())


def by_pair(records: Sequence[Mapping[str, Any]], place: Mapping[int, int]) -> dict[tuple[int, int], list[Any]]:
    """The records of each image (by its index in `place`) and category. Records of other images are left out."""
    pairs = defaultdict(list)
    for record in records:
        image = place.get(record["image_id"])
        if image is not None:
            pairs[image, record["category_id"]].append(record)
    return dict(pairs)


def by_image(
    records: Sequence[Mapping[str, Any]], image_ids: Sequence[int], category_ids: Sequence[int]
) -> list[list[Any]]:
    """The records of each image, in the order of `image_ids`. Those of other images and categories are left out."""
    lists: dict[int, list[Any]] = {image_id: [] for image_id in image_ids}
    wanted = set(category_ids)
    for record in records:
        if record["image_id"] in lists and record["category_id"] in wanted:
            lists[record["image_id"]].append(record)
    return list(lists.values())


def overlaps(
    detections: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]]
) -> tuple[Float[np.ndarray, "d g"], Bool[np.ndarray, " g"]]:
    """The IoU of each detection with each object (COCO records), and which objects are crowd regions.

    For a crowd region it is the share of the detection's area inside the region, as in COCOeval.
    """
    crowd = _crowd(objects)
    boxes = np.array([record["bbox"] for record in detections], float).reshape(-1, 4)
    return _overlaps(boxes, objects, crowd), crowd


def _crowd(objects: Sequence[Mapping[str, Any]]) -> Bool[np.ndarray, " g"]:
    return np.array([bool(record.get("iscrowd", 0)) for record in objects], bool)


def _overlaps(
    boxes: Float[np.ndarray, "d 4"], objects: Sequence[Mapping[str, Any]], crowd: Bool[np.ndarray, " g"]
) -> Float[np.ndarray, "d g"]:
    if not len(boxes) or not objects:
        return np.zeros((len(boxes), len(objects)))
    true = np.array([record["bbox"] for record in objects], float)
    return np.asarray(mask.iou(boxes, true, crowd.astype(np.uint8).tolist()))


def _outside(area: Float[np.ndarray, " n"], ranges: Float[np.ndarray, "a 2"]) -> Bool[np.ndarray, "a n"]:
    return (area < ranges[:, :1]) | (area > ranges[:, 1:])


def assign(
    iou: Float[np.ndarray, "d g"],
    crowd: Bool[np.ndarray, " g"],
    ignored_truth: Bool[np.ndarray, "a g"],
    thresholds: Float[np.ndarray, " t"],
) -> Int[np.ndarray, "a t d"]:
    """The object that each detection (best first) takes at each threshold, or -1. Many may take one crowd region."""
    least = np.minimum(thresholds, 1 - 1e-10)[None, :, None]
    shape = (len(ignored_truth), len(thresholds))
    taken = np.full((*shape, len(iou)), -1)
    free = np.ones((*shape, iou.shape[1]), bool)
    counts = ~ignored_truth[:, None]
    last = iou.shape[1] - 1
    for d in np.flatnonzero(iou.max(1) >= least.min()):  # best score first: each takes what better ones left
        possible = free & (iou[d] >= least)
        proper = possible & counts
        possible = np.where(proper.any(2, keepdims=True), proper, possible)
        chosen = last - np.where(possible, iou[d], -1.0)[..., ::-1].argmax(2)
        a, t = np.nonzero(possible.any(2))
        g = chosen[a, t]
        taken[a, t, d] = g
        free[a, t, g] = crowd[g]
    return taken


def _ranked(
    found: _Found, own: slice, state: Int8[np.ndarray, "a t d"], truths: Int[np.ndarray, "a i"]
) -> tuple[Ranking, ...]:
    """The detections `own` of one category, ranked by score over all images, for each area range."""
    order = own.start + np.argsort(-found.score[own], kind="stable")
    image, score = found.image[order], found.score[order]
    return tuple(Ranking(image, score, state[a][:, order], truths[a]) for a in range(len(truths)))


def _taken(ranking: Ranking, images: Int[np.ndarray, " n"]) -> Ranking:
    by_image = np.argsort(ranking.image, kind="stable")
    counts = np.bincount(ranking.image, minlength=len(ranking.truths))
    starts = np.concatenate([[0], counts.cumsum()])
    lengths = counts[images]
    within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    chosen = by_image[np.repeat(starts[images], lengths) + within]
    image = np.repeat(np.arange(len(images)), lengths)
    order = np.argsort(-ranking.score[chosen], kind="stable")
    chosen = chosen[order]
    return Ranking(image[order], ranking.score[chosen], ranking.state[:, chosen], ranking.truths[images])


def side_by_side(first: Matches, second: Matches) -> Matches:
    """Two detectors' matches of the same images as one: first the images of the first, then those of the second."""
    rankings = tuple(
        tuple(_joined(a, b) for a, b in zip(mine, theirs, strict=True))
        for mine, theirs in zip(first.rankings, second.rankings, strict=True)
    )
    return Matches(first.image_ids + second.image_ids, first.category_ids, rankings)


def _joined(first: Ranking, second: Ranking) -> Ranking:
    score = np.concatenate([first.score, second.score])
    order = np.argsort(-score, kind="stable")
    image = np.concatenate([first.image, second.image + len(first.truths)])[order]
    state = np.concatenate([first.state, second.state], axis=1)[:, order]
    return Ranking(image, score[order], state, np.concatenate([first.truths, second.truths]))
