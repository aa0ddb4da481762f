"""Is one detector better than another? A paired permutation test on the images that both were measured on.

If the two were equally good, then on every image either's detections might as well have been the other's. So they are
swapped on a random half of the images, again and again, and a difference is real where swapping hardly ever makes one
as large. Many numbers are compared at once (categories, sizes): the least likely of them all is held against the least
likely of each round of swaps (Westfall and Young 1993, step-down minP), which takes their number and their dependence
into account: of two equal detectors any number at all is called different in at most 5 % of all comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_ndtr

from detr_mini.evaluation.average_precision import WeightedAP
from detr_mini.evaluation.headline import readings
from detr_mini.evaluation.matching import Matches, side_by_side

HEADLINE = "AP"
"""The one number most comparisons are about: it gets half of the level, all others share the other half."""
SAME = 1e-12
"""Differences this near to each other are the same: sums of floats in another order."""


@dataclass(frozen=True)
class Difference:
    """One number of two detectors."""

    name: str
    first: float
    second: float
    noise: float
    """Standard deviation of the difference over the swaps: what chance alone does."""
    p: float
    """Of this number alone: how often swapping makes a difference this large."""
    adjusted: float
    """With the number of comparisons taken into account."""
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
    """Every reading that is defined, of two detectors on the same images, and whether it differs.

    `names`: of the categories. `rounds`: of swaps; the least possible p is 1 / (rounds + 1). Of several seeds, paired
    in order, the means are compared; an image's detections are swapped in all pairs at once.
    """
    mine, theirs = ([side] if isinstance(side, Matches) else list(side) for side in (first, second))
    images = len(mine[0].image_ids)
    rng = np.random.default_rng(seed)
    judges = [WeightedAP(side_by_side(a, b)) for a, b in zip(mine, theirs, strict=True)]
    keep = np.ones((1, images), np.int64)
    swapped = np.concatenate([keep, rng.integers(0, 2, (rounds, images))])
    a, b = (_mean([readings(judge(_half(half)), names) for judge in judges]) for half in (swapped, 1 - swapped))
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


def _mean(values: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.mean([own[name] for own in values], axis=0) for name in values[0]}


def _half(first: Int[np.ndarray, "b i"]) -> Int[np.ndarray, "b 2*i"]:
    """Weights of the images side by side: the first detector's where `first` is 1, the second's elsewhere."""
    return np.concatenate([first, 1 - first], axis=1)


def _p_values(
    differences: Float[np.ndarray, "b h"], headline: Bool[np.ndarray, "h"]
) -> tuple[Float[np.ndarray, "h"], Float[np.ndarray, "h"]]:
    """(each number's own p, step-down minP); row 0 is what was seen, and counts as one of the rounds."""
    size = np.abs(differences)
    single = (size >= size[0] - SAME).mean(0)
    spread = differences.std(0)
    moves = spread > SAME
    share = np.full(len(headline), 0.5 / max(1, (~headline).sum()))
    share[headline] = 0.5 if (~headline).any() else 1.0
    # the normal law orders numbers of different spread; that it may not hold is the rounds' business
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
    """Each p with the number of comparisons taken into account (Holm 1979)."""
    adjusted, least = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = least
    return adjusted
