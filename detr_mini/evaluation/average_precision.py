"""COCO's AP of many weightings of the same images at once: no image is matched twice, no detection sorted twice.

AP needs the precision at the detections that find something, only: between two of them it can but fall, and COCO reads
at each of 101 recalls the best precision from there on. So per category, range of area and IoU there is one sparse
matrix (places of the finds x images) that holds how many detections of an image lie between one find and the next, and
a weighting is one product with it. A weight is how often an image counts: 0 and 1 choose, larger ones repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix

from detr_mini.evaluation.matching import FOUND, IGNORED, IOUS, RECALLS, Matches, Ranking

ROOM = 1 << 16
"""Numbers in the largest array made at once: half a MiB stays in a core's cache, which halves the time."""


@dataclass(frozen=True)
class _Curve:
    """What a precision-recall curve is made of, for any weights of the images."""

    finds: Int[np.ndarray, "p"]
    """The image of each find, best score first."""
    detections: csr_matrix
    """(p, i): detections of an image that count, after the find before up to this one."""


Measure = Callable[[_Curve, Float[np.ndarray, "b"], Float[np.ndarray, "i b"]], Float[np.ndarray, "b"]]


class WeightedAP:
    """AP by category, range of area and IoU of the images of `matches`, for any weights of them."""

    def __init__(self, matches: Matches) -> None:
        self.images = len(matches.image_ids)
        self._truths = [[ranking.truths.astype(float) for ranking in ranges] for ranges in matches.rankings]
        self._curves = [
            [[_curve(ranking, t) for t in range(len(IOUS))] for ranking in ranges] for ranges in matches.rankings
        ]

    def __call__(self, weights: Int[np.ndarray, "b i"]) -> Float[np.ndarray, "b k a t"]:
        """COCO's AP (101 recalls) under each weighting; NaN where it gives a category no object of the range."""
        return self._each(weights, _average_precision)

    def unbiased(self, weights: Int[np.ndarray, "b i"]) -> Float[np.ndarray, "b k a t"]:
        """AP without what COCO's gains by chance on few images (see `_unbiased`); otherwise as above."""
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
                    values[:, i, j, t] = measure(curve, truths, columns)
        return values


def _curve(ranking: Ranking, t: int) -> _Curve:
    found = np.flatnonzero(ranking.state[t] == FOUND)
    counts = np.flatnonzero(ranking.state[t] != IGNORED)
    counts = counts[counts <= found[-1]] if found.size else counts[:0]  # after the last find nothing matters
    between = np.searchsorted(found, counts)
    matrix = csr_matrix(
        (np.ones(len(counts)), (between, ranking.image[counts])), shape=(len(found), len(ranking.truths))
    )
    return _Curve(ranking.image[found], matrix)


def _average_precision(
    curve: _Curve, truths: Float[np.ndarray, "b"], columns: Float[np.ndarray, "i b"]
) -> Float[np.ndarray, "b"]:
    values = np.zeros(len(truths))
    step = max(1, ROOM // max(len(curve.finds), 1))
    for begin in range(0, len(truths), step):
        part = slice(begin, begin + step)
        found = columns[curve.finds, part].cumsum(0)
        listed = (curve.detections @ np.ascontiguousarray(columns[:, part])).cumsum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = found / (listed + np.spacing(1))
            recall = found / truths[part]
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        reached = _recalls_up_to(recall)
        reached[1:] -= reached[:-1].copy()
        values[part] = np.einsum("pb,pb->b", best, reached) / len(RECALLS)
    values[truths == 0] = np.nan
    return values


def _unbiased(
    curve: _Curve, truths: Float[np.ndarray, "b"], columns: Float[np.ndarray, "i b"]
) -> Float[np.ndarray, "b"]:
    """The mean over the objects of (m - 1) / (n - 1), where the m-th find is the n-th detection; 1 for a first first.

    COCO takes m / n, which knows that the n-th detection finds something, and the best of all from there on. Both gain
    by chance; (m - 1) / (n - 1) is the unbiased estimate of a share observed up to its m-th success (Haldane 1945).
    COCO's recalls are 101 with both ends, so the ends count by a half more than they would in the mean over objects.
    """
    values = np.zeros(len(truths))
    step = max(1, ROOM // max(len(curve.finds), 1))
    for begin in range(0, len(truths), step):
        part = slice(begin, begin + step)
        weight = columns[curve.finds, part]
        # a find that counts w times: the mean of its w places, whose middle lies (w + 1) / 2 before its end
        back = (weight + 1) / 2
        found = weight.cumsum(0) - back
        listed = (curve.detections @ np.ascontiguousarray(columns[:, part])).cumsum(0) - back
        share = np.divide(found, listed, out=np.ones_like(found), where=listed > 0)
        if not len(share):
            continue
        everything = weight.sum(0)
        ends = share.max(0, where=weight > 0, initial=0.0) + np.where(everything == truths[part], share[-1], 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.einsum("pb,pb->b", share, weight) / truths[part]
        values[part] = ((len(RECALLS) - 1) * mean + ends / 2) / len(RECALLS)
    values[truths == 0] = np.nan
    return values


def _recalls_up_to(recall: Float[np.ndarray, "p b"]) -> Float[np.ndarray, "p b"]:
    """How many of RECALLS each value reaches, compared as floats as COCOeval compares them; none at recall 0.

    COCOeval reads recall 0 at the first detection, whose best precision is that of the first find: counted there.
    """
    nearest = np.rint(np.nan_to_num(recall) * (len(RECALLS) - 1))
    reached = nearest + (RECALLS[nearest.astype(np.int16)] <= recall)
    return np.where(recall > 0, reached, 0.0)


def average_precision(found: Bool[np.ndarray, "d"], truths: int) -> float | None:
    """COCO's AP of detections in the order of their scores, `found` where one finds something; None without objects."""
    if not truths:
        return None
    state = found[None].astype(np.int8)
    one = Ranking(np.zeros(len(found), np.int64), np.zeros(len(found)), state, np.array([truths]))
    return float(_average_precision(_curve(one, 0), np.array([float(truths)]), np.ones((1, 1)))[0])
