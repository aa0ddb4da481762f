"""The headline metrics (AP, AP50, AP75, AP by size and by category) out of AP by category, area range and IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from detr_mini.evaluation.metrics.average_precision import WeightedAP
from detr_mini.evaluation.metrics.matching import match
from detr_mini.evaluation.metrics.subset import Subset

SIZES = ("APs", "APm", "APl")


def headline_metrics(values: Float[np.ndarray, "b k a t"], names: Sequence[str]) -> dict[str, Float[np.ndarray, " b"]]:
    """AP, AP50, AP75, APs, APm, APl and `AP/<name>` of each category; NaN where undefined.

    `names`: of the k categories. The first of the a area ranges is "all"; the others, where given, are the sizes.
    """
    everything = values[:, :, 0]
    found = {
        "AP": _over_categories(everything.mean(2)),
        "AP50": _over_categories(everything[:, :, 0]),
        "AP75": _over_categories(everything[:, :, 5]),
    }
    found |= {size: _over_categories(values[:, :, a].mean(2)) for a, size in enumerate(SIZES, 1) if a < values.shape[2]}
    return found | {f"AP/{name}": everything[:, k].mean(1) for k, name in enumerate(names)}


def average_precisions(
    truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]], subset: Subset, limit: int = 100
) -> dict[str, float]:
    """The headline metrics of `records` by name, NaN where undefined; without the sizes, which makes it quick."""
    selected, found = subset.select(truth, records)
    matches = match(selected, found, subset.categories.ids, subset.image_ids, limit, areas=1)
    values = WeightedAP(matches)(np.ones((1, len(subset.image_ids)), np.int64))
    return {name: float(value[0]) for name, value in headline_metrics(values, subset.categories.names).items()}


def _over_categories(values: Float[np.ndarray, "b k"]) -> Float[np.ndarray, " b"]:
    """The mean over the categories where AP is defined."""
    defined = ~np.isnan(values)
    count = defined.sum(1)
    total = np.where(defined, values, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
