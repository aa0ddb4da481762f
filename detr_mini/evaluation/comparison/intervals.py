"""95 % intervals of COCO's metrics by a bootstrap over images: their range on other images of the same kind.

A resample draws as many images as there are, with replacement; an image drawn three times counts three times (Efron
1979). The textbook intervals fail for AP. On few images AP is too high by up to its own standard error, and the
bootstrap hardly detects this bias, so textbook 95 % intervals contain the true value in only 82 to 92 % of all cases.
Therefore the unbiased form of AP is resampled (`average_precision._unbiased`), and the interval lies around that form's
value. It is computed on the logit scale, since a value near 1 (or 0) has more room on one side. docs/log/trust.md has
the measured coverage.

Where every object or none is found, or only one image has objects, the resamples are nearly equal. An interval is
therefore never narrower than the images themselves allow: n images without a fault are compatible with a fault in up to
1 - 0.05^(1/n) of all images. That is the mid-P limit of the binomial distribution (Lancaster 1961): the exact limit of
Clopper and Pearson contains the true value more often than in 95 % of samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

from detr_mini.evaluation.metrics.average_precision import WeightedAP
from detr_mini.evaluation.metrics.headline import headline_metrics
from detr_mini.evaluation.metrics.matching import IOUS, Matches
from detr_mini.progress import track

AT_ONCE = 100
"""Resamples computed together."""
LONG = 3e8
"""From this product of detections (times thresholds and ranges) and resamples a progress bar is shown: some seconds."""
EDGE = 1e-4
"""On the logit scale, values are kept at least this far from 0 and 1."""


def intervals(
    matches: Matches, names: Sequence[str], resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """(low, high) of every headline metric (`headline_metrics`) that is defined. `names`: of the categories.

    A resample without an object of a category (or size) is left out of that category's (or size's) interval.
    """
    images = len(matches.image_ids)
    weighted, once = WeightedAP(matches), np.ones((1, images), np.int64)
    measured, unbiased = headline_metrics(weighted(once), names), headline_metrics(weighted.unbiased(once), names)
    shares = _image_shares(matches, names)
    rng = np.random.default_rng(seed)
    starts: Iterable[int] = range(0, resamples, AT_ONCE)
    if sum(ranking.state.size for ranges in matches.rankings for ranking in ranges) * resamples > LONG:
        starts = track(starts, "resampling")
    draw_sizes = (min(AT_ONCE, resamples - start) for start in starts)
    parts = [headline_metrics(weighted.unbiased(draws(rng, count, images)), names) for count in draw_sizes]
    found = {}
    for name, (value,) in measured.items():
        if not np.isnan(value):
            drawn, centre = np.concatenate([part[name] for part in parts]), float(unbiased[name][0])
            low, high = interval(centre, drawn, images, level)
            least = _least_mean(shares[name], level)
            found[name] = min(low, centre * least, float(value)), max(high, 1 - (1 - centre) * least, float(value))
    return found


def draws(rng: np.random.Generator, count: int, images: int) -> Int[np.ndarray, "count images"]:
    """How often each of `images` is drawn when as many are drawn with replacement."""
    drawn = rng.integers(0, images, (count, images)) + images * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images)


def interval(value: float, resampled: Float[np.ndarray, " b"], images: int, level: float = 0.95) -> tuple[float, float]:
    """The interval around `value` from the spread of its resamples, on the logit scale.

    Resamples spread a little less than samples of n `images` do, and their spread is itself uncertain. An interval
    1 + 1 / sqrt(n) times wider (as Student's t is wider than the normal) contained the true value in 95 % of all cases.
    """
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < 2:
        return value, value
    spread = float(np.std(_logit(defined), ddof=1)) * (1 + 1 / math.sqrt(images))
    reach = NormalDist().inv_cdf((1 + level) / 2) * spread
    centre = float(_logit(np.array([value]))[0])
    return _share(centre - reach), _share(centre + reach)


def _image_shares(matches: Matches, names: Sequence[str]) -> dict[str, Float[np.ndarray, " i"]]:
    """How much each image counts in each headline metric, where the images of a category count alike; the sum is 1."""
    present = np.array([[ranking.truths > 0 for ranking in ranges] for ranges in matches.rankings])
    with np.errstate(invalid="ignore"):
        shares = (present / present.sum(2, keepdims=True)).transpose(2, 0, 1)[..., None]
    return headline_metrics(np.broadcast_to(shares, (*shares.shape[:3], len(IOUS))), names)


def _least_mean(shares: Float[np.ndarray, " i"], level: float) -> float:
    """The mid-P lower limit of a mean over images that is 1 in each image measured; image i counts `shares[i]`.

    It is the least sum of shares[i] * p[i] where half the product of the p[i], the chance that all images are 1, is
    (1 - level) / 2. There p[i] is the smaller of 1 and c / shares[i]. If k images have a p[i] below 1, they are those
    that count most, and their product gives c; the right k is the one with the largest c.
    """
    counted = np.sort(shares[shares > 0])[::-1]
    logs = (math.log(1 - level) + np.log(counted).cumsum()) / np.arange(1, len(counted) + 1)
    return float(np.minimum(counted, math.exp(logs.max())).sum())


def _logit(share: Float[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
    inside = np.clip(share, EDGE, 1 - EDGE)
    return np.log(inside / (1 - inside))


def _share(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
