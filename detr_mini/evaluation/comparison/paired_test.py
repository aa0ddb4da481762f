"""Is one detector better than another? A paired permutation test on the images that both were measured on.

If the two are equally good, their detections are exchangeable on every image. So each round swaps them on a random half
of the images. A difference is real if swapping hardly ever produces one as large.

Many metrics are compared at once (categories, sizes). The smallest p of all is compared with the smallest p of each
round (Westfall and Young 1993, step-down minP), which accounts for their number and their dependence: for two equal
detectors, at most 5 % of all comparisons report any difference at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_ndtr

from detr_mini.evaluation.metrics.average_precision import WeightedAP
from detr_mini.evaluation.metrics.headline import headline_metrics
from detr_mini.evaluation.metrics.matching import Matches, side_by_side

HEADLINE = "AP"
"""The metric that most comparisons are about. It gets half of the significance level, all others share the rest."""
AT_ONCE = 4_000_000
"""Images times rounds that are computed together; they take about 200 MB."""
SAME = 1e-12
"""Differences this close are equal: they come from sums of floats in another order."""


@dataclass(frozen=True)
class Difference:
    """One metric of two detectors."""

    name: str
    first: float
    second: float
    noise: float
    """Standard deviation of the difference over the rounds: the effect of chance alone."""
    p: float
    """How often swapping makes a difference this large in this metric."""
    adjusted: float
    """`p` adjusted for the number of metrics."""
    real: bool
    """`adjusted` is at most the level."""

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


def paired_test(
    first: Matches | Sequence[Matches],
    second: Matches | Sequence[Matches],
    names: Sequence[str],
    rounds: int = 2000,
    seed: int = 0,
    level: float = 0.05,
) -> tuple[Difference, ...]:
    """Every headline metric that is defined, of two detectors on the same images, and whether it differs.

    `names`: of the categories. `rounds`: of swaps; the smallest possible p is 1 / (rounds + 1). With several seeds a
    side, paired in order, the means are compared, and an image's detections are swapped in all pairs at once.
    """
    mine, theirs = ([side] if isinstance(side, Matches) else list(side) for side in (first, second))
    weighted = [WeightedAP(side_by_side(a, b)) for a, b in zip(mine, theirs, strict=True)]
    parts = [
        [_mean([headline_metrics(ap(_half(half)), names) for ap in weighted]) for half in (swapped, 1 - swapped)]
        for swapped in _swaps(len(mine[0].image_ids), rounds, seed)
    ]
    a, b = ({name: np.concatenate([part[i][name] for part in parts]) for name in parts[0][i]} for i in (0, 1))
    rows = [name for name in a if not np.isnan(a[name][0])]
    if not rows:
        return ()
    differences = np.stack([b[name] - a[name] for name in rows], 1)
    single, adjusted = _p_values(differences, np.array([name == HEADLINE for name in rows]))
    noise = differences[1:].std(0)
    return tuple(
        Difference(name, float(a[name][0]), float(b[name][0]), float(noise[i]), float(single[i]),
                   float(adjusted[i]), bool(adjusted[i] <= level))
        for i, name in enumerate(rows)
    )  # fmt: skip


def _swaps(images: int, rounds: int, seed: int) -> Iterator[Int[np.ndarray, "b i"]]:
    """0 for an image whose detections are swapped, else 1: a row that swaps none, then one a round, some at a time."""
    rng, most = np.random.default_rng(seed), max(1, AT_ONCE // images)
    for begin in range(0, rounds, most):
        swapped = rng.integers(0, 2, (min(most, rounds - begin), images))
        yield swapped if begin else np.concatenate([np.ones((1, images), np.int64), swapped])


def _mean(values: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.mean([own[name] for own in values], axis=0) for name in values[0]}


def _half(first: Int[np.ndarray, "b i"]) -> Int[np.ndarray, "b 2*i"]:
    """Weights of `side_by_side` images: the first detector's detections where `first` is 1, else the second's."""
    return np.concatenate([first, 1 - first], axis=1)


def _p_values(
    differences: Float[np.ndarray, "b h"], headline: Bool[np.ndarray, " h"]
) -> tuple[Float[np.ndarray, " h"], Float[np.ndarray, " h"]]:
    """(p of each metric alone, p by step-down minP); row 0 holds the measured differences and counts as a round."""
    size = np.abs(differences)
    single = (size >= size[0] - SAME).mean(0)
    spread = differences.std(0)
    moves = spread > SAME
    share = np.full(len(headline), 0.5 / max(1, (~headline).sum()))
    share[headline] = 0.5 if (~headline).any() else 1.0
    # the normal distribution only makes metrics of different spread comparable; the p itself comes from the rounds
    evidence = np.full_like(size, -np.inf)
    evidence[:, moves] = -log_ndtr(-size[:, moves] / spread[moves]) + np.log(share[moves])
    adjusted = np.ones(len(headline))
    order = np.argsort(-evidence[0], kind="stable")
    least = 0.0
    for rank, h in enumerate(order):
        if moves[h]:
            strongest = evidence[:, order[rank:]].max(1)
            least = max(least, float((strongest >= evidence[0, h] - SAME).mean()))
            adjusted[h] = least
    return single, adjusted


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for their number (Holm 1979)."""
    adjusted, least = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = least
    return adjusted
