"""COCO's AP under many weightings of the same images at once, without matching or sorting again.

A weight says how often an image counts: 0 and 1 select images, larger weights repeat them.

AP needs the precision only at true positives. Between two of them precision can only fall, and COCO takes at each of
101 recalls the best precision from there on. So each category, area range and IoU threshold has one sparse matrix
(true positives x images): how many detections of an image lie between one true positive and the next. A weighting is
one product with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix

from detr_mini.evaluation.metrics.matching import FOUND, IGNORED, IOUS, RECALLS, Matches, Ranking

CHUNK = 1 << 16
"""Numbers in the largest array computed at once: half a MiB stays in a core's cache, which halves the time."""

Measure = Callable[
    [Float[np.ndarray, "p b"], Float[np.ndarray, "p b"], Float[np.ndarray, " b"]], Float[np.ndarray, " b"]
]
"""From the weight of each true positive, the weight of all detections up to it, and the weight of all objects."""


@dataclass(frozen=True)
class _Curve:
    """All that a precision-recall curve needs, for any weights of the images."""

    finds: Int[np.ndarray, " p"]
    """The image of each true positive, best score first."""
    detections: csr_matrix
    """(p, i): detections of an image after the previous true positive, up to this one; ignored ones left out."""


class WeightedAP:
    """AP by category, area range and IoU threshold of the images of `matches`, for any weights of the images."""

    def __init__(self, matches: Matches) -> None:
        self.images = len(matches.image_ids)
        self._truths = [[ranking.truths.astype(float) for ranking in ranges] for ranges in matches.rankings]
        self._curves = [
            [[_curve(ranking, t) for t in range(len(IOUS))] if ranking.truths.any() else [] for ranking in ranges]
            for ranges in matches.rankings
        ]

    def __call__(self, weights: Int[np.ndarray, "b i"]) -> Float[np.ndarray, "b k a t"]:
        """COCO's AP (101 recalls) under each weighting; NaN where a category has no object in the area range."""
        return self._each(weights, _average_precision)

    def unbiased(self, weights: Int[np.ndarray, "b i"]) -> Float[np.ndarray, "b k a t"]:
        """AP without the amount that COCO's gains by chance on few images (see `_unbiased`); otherwise as above."""
        return self._each(weights, _unbiased)

    def _each(self, weights: Int[np.ndarray, "b i"], measure: Measure) -> Float[np.ndarray, "b k a t"]:
        k, a = len(self._curves), len(self._curves[0]) if self._curves else 0
        values = np.full((len(weights), k, a, len(IOUS)), np.nan)
        columns = np.ascontiguousarray(np.asarray(weights, dtype=float).T)
        for i in range(k):
            for j in range(a):
                truths = self._truths[i][j] @ columns
                if not truths.any():
                    continue
                for t, curve in enumerate(self._curves[i][j]):
                    values[:, i, j, t] = _measured(measure, curve, truths, columns)
        return values


def _curve(ranking: Ranking, t: int) -> _Curve:
    found = np.flatnonzero(ranking.state[t] == FOUND)
    counts = np.flatnonzero(ranking.state[t] != IGNORED)
    counts = counts[counts <= found[-1]] if found.size else counts[:0]  # nothing matters after the last true positive
    ends = np.append(0, np.searchsorted(counts, found, side="right"))
    matrix = csr_matrix((np.ones(len(counts)), ranking.image[counts], ends), shape=(len(found), len(ranking.truths)))
    return _Curve(ranking.image[found], matrix)


def _measured(
    measure: Measure, curve: _Curve, truths: Float[np.ndarray, " b"], columns: Float[np.ndarray, "i b"]
) -> Float[np.ndarray, " b"]:
    """`measure` under each weighting (a column), a chunk of weightings at a time; NaN without objects."""
    values = np.zeros(len(truths))
    step = max(1, CHUNK // max(len(curve.finds), 1))
    for begin in range(0, len(truths), step):
        part = slice(begin, begin + step)
        detections = (curve.detections @ np.ascontiguousarray(columns[:, part])).cumsum(0)
        values[part] = measure(columns[curve.finds, part], detections, truths[part])
    values[truths == 0] = np.nan
    return values


def _average_precision(
    weight: Float[np.ndarray, "p b"], detections: Float[np.ndarray, "p b"], truths: Float[np.ndarray, " b"]
) -> Float[np.ndarray, " b"]:
    found = weight.cumsum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = found / (detections + np.spacing(1))
        recall = found / truths
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = _recalls_up_to(recall)
    reached[1:] -= reached[:-1].copy()
    return np.einsum("pb,pb->b", best, reached) / len(RECALLS)


def _unbiased(
    weight: Float[np.ndarray, "p b"], detections: Float[np.ndarray, "p b"], truths: Float[np.ndarray, " b"]
) -> Float[np.ndarray, " b"]:
    """The mean over objects of (m - 1) / (n - 1), where the m-th true positive is the n-th detection; 1 where n is 1.

    COCO takes m / n at a detection that is known to be a true positive, and then the best such value from there on.
    Both raise AP by chance. (m - 1) / (n - 1) is the unbiased estimate of a proportion that is observed up to its m-th
    success (Haldane 1945). COCO's 101 recalls include both ends, so the first and the last value count half a recall
    more than in a mean over objects.
    """
    if not len(weight):
        return np.zeros(len(truths))
    # a true positive of weight w stands for w places in the ranking: take their middle, (w + 1) / 2 before their end
    back = (weight + 1) / 2
    found, detections = weight.cumsum(0) - back, detections - back
    share = np.divide(found, detections, out=np.ones_like(found), where=detections > 0)
    all_found = weight.sum(0) == truths
    ends = share.max(0, where=weight > 0, initial=0.0) + np.where(all_found, share[-1], 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.einsum("pb,pb->b", share, weight) / truths
    return ((len(RECALLS) - 1) * mean + ends / 2) / len(RECALLS)


def _recalls_up_to(recall: Float[np.ndarray, "p b"]) -> Float[np.ndarray, "p b"]:
    """How many of RECALLS each value reaches, by the float comparison that COCOeval makes; none for recall 0.

    COCOeval reads the precision at recall 0 from the first detection. Its best precision is that of the first true
    positive, which counts it here.
    """
    nearest = np.rint(np.nan_to_num(recall) * (len(RECALLS) - 1))
    reached = nearest + (RECALLS[nearest.astype(np.int16)] <= recall)
    return np.where(recall > 0, reached, 0.0)


def average_precision(found: Bool[np.ndarray, " d"], truths: int) -> float | None:
    """COCO's AP of detections, best score first. `found`: true positives; `truths`: objects, None where there are 0."""
    if not truths:
        return None
    state = found[None].astype(np.int8)
    one = Ranking(np.zeros(len(found), np.int64), np.zeros(len(found)), state, np.array([truths]))
    return float(_measured(_average_precision, _curve(one, 0), np.array([float(truths)]), np.ones((1, 1)))[0])
