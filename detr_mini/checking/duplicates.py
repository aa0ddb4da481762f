"""Pictures that show the same: copies, altered copies, the same field a moment later.

A mark of each picture (the low frequencies of its grey copy, which brightness and contrast do not change) finds the few
that may be alike, mirrored or not. One of each such pair is laid on the other (Lucas and Kanade 1981: shift and scale,
so that a cut edge does not matter) and its tones are fitted. What then differs, block by block, decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detr_mini.checking.pictures import AGAIN, LIKE, same_digests

SIDE = 96
"""Pixels of the small grey copy."""
ALIKE, ALIKE_PIXEL = 1.5, 14.0
"""Differences (of 255) of two copies of one picture: of 16 x 16 pixels on average, and of any pixel of 96 x 96.

A photograph saved again at quality 20: 0.5 and 4; bright noise of 120 x 80 pixels at quality 40: 1 and 11. A chessman
that has moved on its board changes the average by 0.5, but one pixel by 30.
"""
FLAT = 8.0
"""A copy with a standard deviation below this says nothing: two empty pictures need not be one."""
EXPLAINED = 0.95
"""Share of the variance that two pictures of one view have in common."""
BLOCK, WORST, MOST = 8, 0.5, 1.2
"""What differs in a block of so many pixels, relative to its contrast: below WORST in any, or MOST in all but three."""
HOPELESS = 0.8
"""Correlation below which two blurred pictures are not compared further."""
CROWD = 12
"""A picture with more near neighbours is one of a fixed camera: there the strict limit, WORST, tells copies apart."""
NEAR, VERY_NEAR = 0.6, 0.9
"""Cosine of two marks from which a pair is looked at, and from which pictures count as neighbours."""
_FREQUENCIES, _FEW = 9, 7
_SMALL_SET = 8192
_TILE = 512
"""Pictures that are compared with as many others in one step; the table of them stays in the cache."""
Grey = Float[np.ndarray, "s s"]


def mark_of(small: np.ndarray) -> np.ndarray | None:
    """The mark of a small grey copy; None where it is flat."""
    values = small.astype(np.float32)
    if values.std() <= FLAT:
        return None
    found = _projected(values)
    return (found / np.linalg.norm(found)).astype(np.float32)


def _projected(small: np.ndarray) -> np.ndarray:
    cosines = _cosines(_FREQUENCIES)
    found: np.ndarray = cosines @ small.astype(np.float32, copy=False) @ cosines.T * _weights()
    return found


@cache
def _cosines(count: int) -> np.ndarray:
    places = (np.arange(SIDE) + 0.5) / SIDE
    return np.sqrt(2 / SIDE) * np.cos(np.pi * np.arange(count)[:, None] * places)


@cache
def _weights() -> np.ndarray:
    """Natural pictures have less of higher frequencies, in proportion: so each counts alike. None of the mean."""
    k = np.arange(_FREQUENCIES)
    radius = np.hypot(k[:, None], k)
    return np.where(radius <= _FREQUENCIES, radius, 0.0)


def pairs_like(
    digests: Sequence[bytes],
    marks: Sequence[np.ndarray | None],
    small: Callable[[int], np.ndarray],
    groups: Sequence[str] | None = None,
) -> list[tuple[int, int, str, bool]]:
    """(earlier, later, how alike, whether a fixed camera took them) of pictures that show the same.

    `small`: gives the small grey copy of a picture. `groups`: pairs that are only nearly the same view count between
    two groups, and not within one.
    """
    pairs = same_digests(digests)
    copies = {later for _, later, *_ in pairs}
    shown = [i for i, mark in enumerate(marks) if mark is not None and i not in copies]
    if len(shown) > 1:
        table = torch.from_numpy(np.stack([mark for i in shown if (mark := marks[i]) is not None]))
        names = None if groups is None else [groups[i] for i in shown]
        for a, b, crowded in _near(table, names):
            one, two = sorted((shown[a], shown[b]))
            across = groups is None or groups[one] != groups[two]
            how = compare(small(one), small(two), strict=crowded, views=across)
            if how:
                pairs.append((one, two, how, crowded))
    return sorted(set(pairs), key=lambda pair: (pair[1], pair[0]))


def _near(marks: Float[Tensor, "n k k"], groups: Sequence[str] | None) -> list[tuple[int, int, bool]]:
    """Pairs whose marks are near, a few of each picture, and whether one of them has many neighbours."""
    count, small_set = len(marks), len(marks) <= _SMALL_SET
    width = _FREQUENCIES if small_set else _FEW
    parts = _parities(marks[:, :width, :width], small_set)
    own = torch.tensor([hash(g) for g in groups]) if groups is not None else None
    most = min(3 if small_set else 1, count - 1)
    found: dict[tuple[int, int], None] = {}
    neighbours = torch.zeros(count, dtype=torch.long)
    for begin in range(0, count, _TILE):
        rows = slice(begin, begin + _TILE)
        nearest = [_Nearest(most) for _ in range(1 if own is None else 2)]
        for left in range(0, count, _TILE):
            columns = slice(left, left + _TILE)
            like = _likeness([part[rows] for part in parts], [part[columns] for part in parts])
            if left == begin:
                like.fill_diagonal_(-1)
            nearest[0].add(like, left)
            if own is not None:
                nearest[1].add(like.masked_fill(own[rows, None] == own[columns], -1), left)
            if nearest[0].best >= VERY_NEAR:
                neighbours[rows] += (like >= VERY_NEAR).sum(1)
        for near in nearest:
            for row, column in torch.nonzero(near.value >= NEAR).tolist():
                one, two = sorted((begin + row, int(near.place[row, column])))
                found[one, two] = None
    return [(one, two, int(max(neighbours[one], neighbours[two])) > CROWD) for one, two in found]


class _Nearest:
    """The largest values of each row of a table that comes in tiles, and their columns."""

    value: Float[Tensor, "n m"]
    place: Int[Tensor, "n m"]

    def __init__(self, most: int) -> None:
        self.most, self.best = most, -1.0
        self._first = True

    def add(self, tile: Float[Tensor, "n w"], left: int) -> None:
        """`left`: the column of the table that the tile begins with."""
        kept = min(self.most, tile.shape[1])
        value, place = tile.topk(kept, 1) if kept > 1 else tile.max(1, keepdim=True)
        place = place + left
        if not self._first:
            value, place = torch.cat([self.value, value], 1), torch.cat([self.place, place], 1)
            value, chosen = value.topk(min(self.most, value.shape[1]), 1)
            place = place.gather(1, chosen)
        self.value, self.place, self._first = value, place, False
        self.best = float(value.max())


def _parities(marks: Float[Tensor, "n k k"], both: bool) -> list[Float[Tensor, "n c"]]:
    """Marks by what mirroring does to them: left to right, and (`both`) upside down; it turns the sign of the odd."""
    tall = [slice(0, None, 2), slice(1, None, 2)] if both else [slice(0, None)]
    kept = [marks[:, rows, columns] for rows in tall for columns in (slice(0, None, 2), slice(1, None, 2))]
    return [part.reshape(len(marks), -1).contiguous() for part in kept]


def _likeness(rows: Sequence[Tensor], columns: Sequence[Tensor]) -> Float[Tensor, "n m"]:
    """The cosine of each pair, in the best of its mirrorings."""
    dots = [a @ b.T for a, b in zip(rows, columns, strict=True)]
    if len(dots) == 2:
        return dots[1].abs_().add_(dots[0])
    straight, turned = (dots[0] + dots[3], dots[1] + dots[2]), (dots[0] - dots[3], dots[1] - dots[2])
    return torch.maximum(straight[0] + straight[1].abs(), turned[0] + turned[1].abs())


def compare(one: np.ndarray, two: np.ndarray, *, strict: bool = False, views: bool = True) -> str:
    """How two small grey copies are alike, or "". `views`: the same view counts, not a copy alone."""
    one, two = one.astype(np.float64), two.astype(np.float64)
    blur = _blur(0.8)
    if np.abs(_pooled(one - two)).mean() < ALIKE and np.abs(blur @ (one - two) @ blur.T).max() < ALIKE_PIXEL:
        return AGAIN
    if not views:
        return ""
    explained, worst, fourth = differences(one, _mirrored_like(one, two))
    same = explained >= EXPLAINED and (worst < WORST or (not strict and fourth < MOST))
    return LIKE if same else ""


def _pooled(values: Grey) -> np.ndarray:
    return values.reshape(16, SIDE // 16, 16, SIDE // 16).mean((1, 3))


def _mirrored_like(one: Grey, two: Grey) -> Grey:
    """`two` as it is or mirrored, whichever is more like `one`."""
    mark = mark_of(one)
    choices = [two, two[:, ::-1], two[::-1], two[::-1, ::-1]]
    return max(choices, key=lambda choice: 0.0 if mark is None else float((mark * _projected(choice)).sum()))


def differences(one: Grey, two: Grey) -> tuple[float, float, float]:
    """The share of variance explained once `one` lies on `two`; the worst block's difference, the fourth worst's."""
    aligned = _aligned(one, two)
    if aligned is None:
        return 0.0, np.inf, np.inf
    laid, seen = aligned
    sharp = _blur(0.8)
    target = sharp @ two @ sharp.T
    burnt = (laid < 6) | (laid > 247) | (two < 6) | (two > 247)
    if (seen & ~burnt).sum() > seen.sum() / 2:
        seen = seen & ~burnt
    spread = target[seen].std()
    tone = (laid - laid[seen].mean()) / max(laid[seen].std(), 1e-3)
    powers = np.stack([np.ones_like(tone), tone, tone**2, tone**3], -1)
    fitted = powers @ np.linalg.lstsq(powers[seen], target[seen], rcond=None)[0]
    rest = np.where(seen, fitted - target, 0)
    explained = 1 - float((rest[seen] ** 2).mean()) / max(float(spread), 1e-3) ** 2
    weight = _blocks(seen.astype(float))
    contrast = np.minimum(_block_contrast(fitted, seen), _block_contrast(target, seen))
    relative = np.sqrt(_blocks(rest**2) / np.maximum(weight, 1)) / (contrast + 0.15 * spread + 1e-6)
    ranked = np.sort(np.where(weight > BLOCK * BLOCK / 4, relative, 0).reshape(-1))
    return explained, float(ranked[-1]), float(ranked[-4])


def _blocks(values: np.ndarray) -> np.ndarray:
    return values.reshape(SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK).sum((1, 3))


def _block_contrast(values: np.ndarray, seen: Bool[np.ndarray, "s s"]) -> np.ndarray:
    count = np.maximum(_blocks(seen.astype(float)), 1)
    mean = _blocks(np.where(seen, values, 0)) / count
    return np.sqrt(np.maximum(_blocks(np.where(seen, values**2, 0)) / count - mean**2, 0))


def _aligned(one: Grey, two: Grey) -> tuple[Grey, Bool[np.ndarray, "s s"]] | None:
    """`one` shifted and scaled (each axis by itself) so that it lies on `two`, and which pixels it covers.

    None where they are too different after two steps.
    """
    scale, shift = np.ones(2), np.zeros(2)  # x, y
    offset = np.arange(SIDE) + 0.5 - SIDE / 2
    for width, steps in ((4.5, 4), (1.5, 4), (0.8, 2)):
        blur = _blur(width)
        source, target = blur @ one @ blur.T, blur @ two @ blur.T
        down, right = np.gradient(source)
        for number in range(steps):
            across, tall = _resampling(scale[0], shift[0]), _resampling(scale[1], shift[1])
            seen = tall[1][:, None] & across[1]
            laid, dx, dy = (tall[0] @ values @ across[0].T for values in (source, right, down))
            if number == 2 and np.corrcoef(laid[seen], target[seen])[0, 1] < HOPELESS:
                return None
            columns = [dx * offset, dy * offset[:, None], dx, dy, laid, np.ones_like(laid)]
            slopes = np.stack([column[seen] for column in columns], 1)
            normal = slopes.T @ slopes
            normal[np.diag_indices(6)] *= 1 + 1e-4
            step = np.linalg.solve(normal + 1e-6 * np.eye(6), slopes.T @ target[seen])
            if step[4] < 0.2:  # not the same picture: the tones do not rise together
                break
            scale = np.clip(scale + np.clip(step[:2] / step[4], -0.06, 0.06), 0.85, 1.18)
            shift = np.clip(shift + np.clip(step[2:4] / step[4], -4, 4), -10, 10)
    across, tall, sharp = _resampling(scale[0], shift[0]), _resampling(scale[1], shift[1]), _blur(0.8)
    return tall[0] @ (sharp @ one @ sharp.T) @ across[0].T, tall[1][:, None] & across[1]


def _resampling(scale: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """A matrix that resamples a row of pixels linearly, and which samples lie inside."""
    places = scale * (np.arange(SIDE) + 0.5 - SIDE / 2) + SIDE / 2 + shift - 0.5
    inside = (places >= -0.5) & (places <= SIDE - 0.5)
    return np.maximum(0, 1 - np.abs(np.clip(places, 0, SIDE - 1)[:, None] - np.arange(SIDE))), inside


@cache
def _blur(width: float) -> np.ndarray:
    """A matrix that blurs by a Gaussian, edges repeated."""
    reach = int(3 * width) + 1
    steps = np.arange(-reach, reach + 1)
    places = np.clip(np.arange(SIDE)[:, None] + steps, 0, SIDE - 1)
    matrix = np.zeros((SIDE, SIDE))
    np.add.at(matrix, (np.arange(SIDE)[:, None], places), np.exp(-0.5 * (steps / width) ** 2))
    return matrix / matrix.sum(1, keepdims=True)


def joined(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """The first member of the group of each of `count` items, given links between them."""
    first = list(range(count))

    def root(k: int) -> int:
        while first[k] != k:
            first[k] = k = first[first[k]]
        return k

    for a, b in links:
        one, two = sorted((root(a), root(b)))
        first[two] = one
    return [root(k) for k in range(count)]
