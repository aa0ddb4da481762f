"""Groups of images given to parts, so that each part has its share of every category.

First iterative stratification (Sechidis et al. 2011): the rarest category first, each of its groups to the part that
lacks it most. Then single groups are moved and pairs swapped while that brings the counts nearer to their shares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_SIZE_WEIGHT = 1e4
_ROUNDS = 400
_TRIED, _TERMS = 40, 4_000_000
"""Groups whose swaps are tried at each step: these in a small set, fewer where each try costs more."""
Row = Mapping[Hashable, int]


def stratify(
    rows: Sequence[Row], sizes: Sequence[int], shares: Sequence[float], weights: Mapping[Hashable, float]
) -> list[int]:
    """The part of each group, given how much of each category it has and how many images it is.

    The order of the groups decides between equals. `weights`: how much a category counts, 1 where it is not named.
    Each part but the first has round(share * images) images, as far as the sizes of the groups allow.
    """
    parts = iterative_stratification(rows, sizes, shares)
    return refined(rows, sizes, shares, weights, parts) if rows and len(shares) > 1 else parts


def iterative_stratification(rows: Sequence[Row], sizes: Sequence[int], shares: Sequence[float]) -> list[int]:
    """The part of each group by Sechidis et al. 2011, algorithm 1; ties go to the part that lacks most images."""
    places = range(len(shares))
    left: Counter[Hashable] = Counter()
    owners: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows):
        for category, count in row.items():
            left[category] += count
            owners.setdefault(category, []).append(index)
    wanted = {category: [share * count for share in shares] for category, count in left.items()}
    room = [share * sum(sizes) for share in shares]
    parts = [-1] * len(rows)

    def give(index: int, part: int) -> None:
        parts[index] = part
        room[part] -= sizes[index]
        for category, count in rows[index].items():
            wanted[category][part] -= count
            left[category] -= count

    while left:
        rarest = min(left, key=lambda category: (left[category], str(category)))
        for index in owners[rarest]:
            if parts[index] < 0:
                give(index, max(places, key=lambda p: (wanted[rarest][p], room[p], -p)))
        del left[rarest]
    for index in range(len(rows)):
        if parts[index] < 0:
            give(index, max(places, key=lambda p: (room[p], -p)))
    return parts


def refined(
    rows: Sequence[Row],
    sizes: Sequence[int],
    shares: Sequence[float],
    weights: Mapping[Hashable, float],
    parts: Sequence[int],
) -> list[int]:
    """The parts after moves and swaps that lower the sum of squared relative errors, sizes above all."""
    columns = {category: k for k, category in enumerate(dict.fromkeys(c for row in rows for c in row), start=1)}
    table = _Table(rows, sizes, columns)
    place = np.array(parts, np.int64)
    share = np.array(shares)[:, None]
    total = table.total(np.ones(len(rows)))
    wanted = share * total
    wanted[1:, 0] = wanted[1:, 0].round()
    wanted[0, 0] = total[0] - wanted[1:, 0].sum()
    weight = np.array([1.0, *(weights.get(category, 1.0) for category in columns)]) / np.maximum(wanted, 1.0) ** 2
    weight[:, 0] = _SIZE_WEIGHT
    error = np.stack([table.total((place == part).astype(float)) for part in range(len(shares))]) - wanted
    pairs = [(a, b) for a in range(len(shares)) for b in range(len(shares)) if a != b]
    for _ in range(_ROUNDS):
        improved = [_improve(table, place, error, weight, *pair) for pair in pairs]
        if not any(improved):
            break
    found: list[int] = place.tolist()
    return found


class _Table:
    """Counts by group and column, most of them zero."""

    def __init__(self, rows: Sequence[Row], sizes: Sequence[int], columns: Mapping[Hashable, int]) -> None:
        lengths = [1 + len(row) for row in rows]
        self.width = 1 + len(columns)
        self.owner = np.repeat(np.arange(len(rows)), lengths)
        self.first = np.concatenate([[0], np.cumsum(lengths)])
        self.column = np.array([c for row in rows for c in (0, *(columns[name] for name in row))], np.int64)
        self.count = np.array([v for row, size in zip(rows, sizes, strict=True) for v in (size, *row.values())], float)

    def total(self, chosen: Float[np.ndarray, " n"]) -> Float[np.ndarray, " c"]:
        """Sums of the columns over the chosen groups."""
        return np.bincount(self.column, self.count * chosen[self.owner], self.width)

    def counts_of(self, chosen: Int[np.ndarray, " m"]) -> _Counts:
        """The counts of these groups alone, which are in order."""
        here = np.zeros(len(self.first) - 1, bool)
        here[chosen] = True
        kept = here[self.owner]
        lengths = np.diff(self.first)[chosen]
        return _Counts(self.column[kept], self.count[kept], np.cumsum(lengths) - lengths)

    def move(self, group: int, error: np.ndarray, out: int, to: int) -> None:
        """Note in `error` that a group goes from one part to another."""
        own = slice(self.first[group], self.first[group + 1])
        error[out, self.column[own]] -= self.count[own]
        error[to, self.column[own]] += self.count[own]


class _Counts(NamedTuple):
    """What some groups have: columns and counts one after another, and where each group begins."""

    columns: Int[np.ndarray, " k"]
    counts: Float[np.ndarray, " k"]
    first: Int[np.ndarray, " m"]

    def gain(self, error: np.ndarray, weight: np.ndarray, out: int, to: int) -> Float[np.ndarray, " m"]:
        """By how much the sum of squares changes if a group goes from one part to another."""
        slope = 2 * (error[to] * weight[to] - error[out] * weight[out])
        curve = weight[to] + weight[out]
        terms = self.counts * (slope[self.columns] + self.counts * curve[self.columns])
        return np.add.reduceat(terms, self.first) if len(terms) else terms


def _improve(
    table: _Table, place: Int[np.ndarray, " n"], error: np.ndarray, weight: np.ndarray, one: int, two: int
) -> bool:
    """Make the best move from part `one` to `two`, or the best swap of a few promising ones, if one helps."""
    here = np.flatnonzero(place == one)
    if len(here) < 2:
        return False
    gain = table.counts_of(here).gain(error, weight, one, two)
    there = np.flatnonzero(place == two)
    others = table.counts_of(there)
    best = (-1e-9, -1, -1)
    tried = min(_TRIED, 1 + _TERMS // len(table.count))
    for k in np.argsort(gain, kind="stable")[:tried].tolist():
        group = int(here[k])
        best = min(best, (float(gain[k]), group, -1))
        table.move(group, error, one, two)
        back = gain[k] + others.gain(error, weight, two, one)
        table.move(group, error, two, one)
        if len(back):
            other = int(back.argmin())
            best = min(best, (float(back[other]), group, int(there[other])))
    _, group, other = best
    if group < 0:
        return False
    table.move(group, error, one, two)
    place[group] = two
    if other >= 0:
        table.move(other, error, two, one)
        place[other] = one
    return True
