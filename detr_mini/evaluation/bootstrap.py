"""How sure COCO's numbers are, had other images of the same kind been drawn: 95 % intervals by a bootstrap over images.

Images are drawn with replacement, as many as there are, again and again; an image drawn three times counts three times
(Efron 1979). AP is biased: each precision is the best from there on, which profits from chance the more the fewer
objects there are. The bootstrap sees a part of this only, since its bias shrinks like n^-1/2 (a flat curve) to n^-2/3
(a falling one; Grenander's estimator), not like 1/n. So what it sees is taken BIAS-fold from the number before the
resamples' spread is laid around it. docs/results.md has the measured coverage of this and of the textbook's methods.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from rich.progress import track

from detr_mini.evaluation.matches import Matches
from detr_mini.evaluation.readings import readings
from detr_mini.evaluation.weighted import WeightedAP

BIAS = 2.2
"""Times the bootstrap's own estimate of the bias that is taken off."""
WIDEN = 1.05
"""Resamples spread less than samples do."""
AT_ONCE = 100
"""Resamples computed together."""
LONG = 3e8
"""Detections times resamples from which a bar is shown: some seconds."""


def intervals(
    matches: Matches, names: Sequence[str], resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """(low, high) of every reading (`readings.readings`) that is defined. `names`: of the categories.

    Resamples that show no object of a category (or size) are left out for it.
    """
    images = len(matches.image_ids)
    judge = WeightedAP(matches)
    seen = readings(judge(np.ones((1, images), np.int64)), names)
    rng = np.random.default_rng(seed)
    starts: Sequence[int] = range(0, resamples, AT_ONCE)
    if sum(ranking.state.size for ranges in matches.rankings for ranking in ranges) * resamples > LONG:
        starts = track(starts, "resampling", transient=True)  # type: ignore[assignment]
    parts = [readings(judge(draws(rng, min(AT_ONCE, resamples - start), images)), names) for start in starts]
    found = {}
    for name, (value,) in seen.items():
        if not np.isnan(value):
            found[name] = interval(float(value), np.concatenate([part[name] for part in parts]), level)
    return found


def draws(rng: np.random.Generator, count: int, images: int) -> Int[np.ndarray, "count images"]:
    """How often each of `images` is drawn when as many are drawn with replacement."""
    drawn = rng.integers(0, images, (count, images)) + images * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images)


def interval(value: float, resampled: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The interval of `value` from its resamples; it always holds `value` itself, and lies in [0, 1]."""
    defined = resampled[~np.isnan(resampled)]
    if not defined.size:
        return value, value
    mean = defined.mean()
    centre = value - BIAS * (mean - value)
    low, high = centre + WIDEN * (np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]) - mean)
    return float(np.clip(min(low, value), 0, 1)), float(np.clip(max(high, value), 0, 1))
