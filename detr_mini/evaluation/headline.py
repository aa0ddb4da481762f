"""The numbers that people read, out of AP by category, range of area and IoU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

SIZES = ("APs", "APm", "APl")


def readings(values: Float[np.ndarray, "b k a t"], names: Sequence[str]) -> dict[str, Float[np.ndarray, "b"]]:
    """AP, AP50, AP75, APs, APm, APl and an `AP/<name>` for each category; NaN where undefined.

    `names`: of the categories. Of `a` areas the first is everything, the others (where there are any) are the sizes.
    """
    everything = values[:, :, 0]
    found = {
        "AP": _over_categories(everything.mean(2)),
        "AP50": _over_categories(everything[:, :, 0]),
        "AP75": _over_categories(everything[:, :, 5]),
    }
    found |= {size: _over_categories(values[:, :, a].mean(2)) for a, size in enumerate(SIZES, 1) if a < values.shape[2]}
    return found | dict(_by_category(everything, names))


def _by_category(everything: Float[np.ndarray, "b k t"], names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    for k, name in enumerate(names):
        yield f"AP/{name}", everything[:, k].mean(1)


def _over_categories(values: Float[np.ndarray, "b k"]) -> Float[np.ndarray, "b"]:
    """The mean over the categories that are defined."""
    defined = ~np.isnan(values)
    count = defined.sum(1)
    total = np.where(defined, values, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
