"""How sure COCO's numbers are, had other images of the same kind been drawn: 95 % intervals by a bootstrap over images.

Images are drawn with replacement, as many as there are, again and again; an image drawn three times counts three times
(Efron 1979). The textbook's intervals fail for AP, which is too high on few images by up to its own standard error and
whose bias the bootstrap hardly sees: 95 % intervals then hold the truth in 82 to 92 % of all cases. So what is drawn
again is the unbiased form of AP (`weighted._unbiased`), and the interval is laid around that form's value, on the
logit scale, since near 1 (or 0) there is more room on one side. docs/results.md has the measured coverage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

from detr_mini.evaluation.average_precision import WeightedAP
from detr_mini.evaluation.headline import readings
from detr_mini.evaluation.matching import Matches
from detr_mini.progress import track

AT_ONCE = 100
"""Resamples computed together."""
LONG = 3e8
"""States of detections times resamples from which a bar is shown: some seconds."""
EDGE = 1e-4
"""A value nearer to 0 or 1 counts as that near, on the logit scale."""


def intervals(
    matches: Matches, names: Sequence[str], resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """(low, high) of every reading (`readings.readings`) that is defined. `names`: of the categories.

    Resamples that show no object of a category (or size) are left out for it.
    """
    images = len(matches.image_ids)
    judge, once = WeightedAP(matches), np.ones((1, images), np.int64)
    seen, unbiased = readings(judge(once), names), readings(judge.unbiased(once), names)
    rng = np.random.default_rng(seed)
    starts: Iterable[int] = range(0, resamples, AT_ONCE)
    if sum(ranking.state.size for ranges in matches.rankings for ranking in ranges) * resamples > LONG:
        starts = track(starts, "resampling")
    parts = [readings(judge.unbiased(draws(rng, min(AT_ONCE, resamples - start), images)), names) for start in starts]
    found = {}
    for name, (value,) in seen.items():
        if not np.isnan(value):
            drawn = np.concatenate([part[name] for part in parts])
            low, high = interval(float(unbiased[name][0]), drawn, images, level)
            found[name] = (min(low, float(value)), max(high, float(value)))
    return found


def draws(rng: np.random.Generator, count: int, images: int) -> Int[np.ndarray, "count images"]:
    """How often each of `images` is drawn when as many are drawn with replacement."""
    drawn = rng.integers(0, images, (count, images)) + images * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images)


def interval(value: float, resampled: Float[np.ndarray, "b"], images: int, level: float = 0.95) -> tuple[float, float]:
    """The interval around `value` that its resamples' spread gives, on the logit scale.

    Resamples spread a little less than samples of `images` do, and their spread is itself uncertain: 1 + 1 / sqrt(n)
    times wider (as Student's t is wider than the normal law) held the truth in 95 % of all cases.
    """
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < 2:
        return value, value
    spread = float(np.std(_logit(defined), ddof=1)) * (1 + 1 / math.sqrt(images))
    reach = NormalDist().inv_cdf((1 + level) / 2) * spread
    centre = float(_logit(np.array([value]))[0])
    return _share(centre - reach), _share(centre + reach)


def _logit(share: Float[np.ndarray, "b"]) -> Float[np.ndarray, "b"]:
    inside = np.clip(share, EDGE, 1 - EDGE)
    return np.log(inside / (1 - inside))


def _share(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
