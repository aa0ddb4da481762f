"""Which detection finds which object, matched once per image; the basis of intervals, tests and error types.

The rules are COCOeval's (pycocotools). Within an image and category, detections choose in the order of their scores.
Each takes the free object with the largest IoU, and the last one of equals. Objects that do not count (crowd regions,
sizes outside the range) are taken only where no other is left. An image's matches depend on that image alone, so AP on
any selection of images, repeats included, follows without matching again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    objects, found = by_pair(truth["annotations"], place), by_pair(results, place)
    ranges = np.array(AREA_RANGES[:areas])
    pairs: dict[int, list[tuple[int, _PairMatches]]] = defaultdict(list)
    counted: dict[int, dict[int, np.ndarray]] = defaultdict(dict)
    for image, category in sorted(objects.keys() | found.keys()):
        best = _best(found.get((image, category), []), limit)
        pair = _match_pair(objects.get((image, category), []), best, ranges)
        counted[category][image] = (~pair.ignored_truth).sum(1)
        pairs[category].append((image, pair))
    rankings = []
    for category in category_ids:
        truths = np.zeros((areas, len(image_ids)), np.int64)
        for image, count in counted[category].items():
            truths[:, image] = count
        rankings.append(_rank(pairs[category], truths))
    return Matches(tuple(image_ids), tuple(category_ids), tuple(rankings))


@dataclass(frozen=True)
class _PairMatches:
    """One image and category."""

    score: Float[np.ndarray, " d"]
    state: Int8[np.ndarray, "a t d"]
    ignored_truth: Bool[np.ndarray, "a g"]


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
    crowd = np.array([bool(record.get("iscrowd", 0)) for record in objects], bool)
    if not detections or not objects:
        return np.zeros((len(detections), len(objects))), crowd
    boxes, true = (np.array([record["bbox"] for record in side], float) for side in (detections, objects))
    return np.asarray(mask.iou(boxes, true, crowd.astype(np.uint8).tolist())), crowd


def _best(records: list[Any], limit: int) -> list[Any]:
    return sorted(records, key=lambda record: -record["score"])[:limit]  # stable, as COCOeval's mergesort


def _match_pair(objects: list[Any], found: list[Any], ranges: Float[np.ndarray, "a 2"]) -> _PairMatches:
    """`objects` and `found` are COCO records, `found` with the best score first."""
    iou, crowd = overlaps(found, objects)
    area = np.array([record.get("area", record["bbox"][2] * record["bbox"][3]) for record in objects], float)
    ignored_truth = _outside(area, ranges) | crowd
    boxes = np.array([record["bbox"] for record in found], float).reshape(-1, 4)
    state = np.zeros((len(ranges), len(IOUS), len(found)), np.int8)
    state[:] = np.where(_outside(boxes[:, 2] * boxes[:, 3], ranges), IGNORED, FALSE_POSITIVE)[:, None]
    if objects and found:
        taken = assign(iou, crowd, ignored_truth, IOUS)
        a, t, d = np.nonzero(taken >= 0)
        state[a, t, d] = np.where(ignored_truth[a, taken[a, t, d]], IGNORED, FOUND)
    return _PairMatches(np.array([record["score"] for record in found], float), state, ignored_truth)


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


def _rank(pairs: list[tuple[int, _PairMatches]], truths: Int[np.ndarray, "a i"]) -> tuple[Ranking, ...]:
    """The detections of one category in all images, ranked by score, for each area range."""
    if not pairs:
        empty = Ranking(np.zeros(0, np.int64), np.zeros(0), np.zeros((len(IOUS), 0), np.int8), truths[0])
        return tuple(replace(empty, truths=row) for row in truths)
    score = np.concatenate([pair.score for _, pair in pairs])
    image = np.repeat([i for i, _ in pairs], [len(pair.score) for _, pair in pairs])
    state = np.concatenate([pair.state for _, pair in pairs], axis=2)
    order = np.argsort(-score, kind="stable")
    image, score = image[order], score[order]
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
