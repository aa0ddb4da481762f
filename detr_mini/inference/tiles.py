"""Windows of a large image, and the detections of all of them as one: an object cut by a border is found once, whole.

A detection is *cut* where it touches a border of its window that is not one of the image. Three rules join windows:

1. A cut detection whose other end lies inside the neighbouring window is dropped: the neighbour sees more of it.
2. Two detections of one category in different windows are the same object if their boxes agree (IoU above SAME), each
   without what the other's window could not show of an object that its border cuts. Of two, the better seen one stays:
   whole in a tile, then whole in the view of the entire image, then cut.
3. Cut detections that agree and that nobody sees whole are united: the box around them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from detr_mini.boxes import iou_and_giou
from detr_mini.images.tiling import Window
from detr_mini.structures import Categories, Detections

SAME = 0.5
"""IoU, of what the windows of both could show, above which two boxes are one object's."""
MARGIN = 0.01
"""How near to a border a box counts as touching it, as a share of the window's side; one pixel is added."""
LIKE = 0.4
"""Cut detections are united only if the lower score is at least this share of the higher one."""
WEIGHT_VIEW, WEIGHT_CUT = 0.8, 0.5
"""What a score counts in rule 2 where the object was seen in the view of the entire image, or was cut."""


def join_windows(
    found: Sequence[tuple[Window, Detections]], size: tuple[int, int], categories: Categories
) -> Detections:
    """The detections of all windows, each in pixels of its window, as those of the image, best first."""
    tiles = sorted((w for w, _ in found if not w.is_view), key=lambda w: (w.top, w.left))
    table = _Table.of(found, size)
    if len(tiles) > 1:
        table = table[~_better_seen_by_a_neighbour(table, tiles, size)]
        table = _united(_once(table), size)
        table = _once(table)
    order = table.scores.argsort(descending=True, stable=True)
    table = table[order]
    return Detections(table.boxes, table.scores, table.labels, categories, image_size=size)


@dataclass(frozen=True)
class _Table:
    """Detections of many windows in pixels of the image, and the window of each."""

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    windows: Float[Tensor, "n 4"]
    """What was seen, xyxy; of a united detection, all its windows together."""
    numbers: Int[Tensor, " n"]
    """Of the window; below 0, another for each, for united detections."""
    is_view: Bool[Tensor, " n"]
    cut: Bool[Tensor, "n 4"]
    """Whether it touches the left, upper, right and lower border of its window, inside the image."""

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor) -> _Table:
        return _Table(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    @property
    def keys(self) -> Float[Tensor, " n"]:
        """Scores, weighted by how well the object was seen."""
        weight = torch.where(self.is_view, WEIGHT_VIEW, 1.0)
        return self.scores * torch.where(self.cut.any(1), WEIGHT_CUT, weight)

    @classmethod
    def of(cls, found: Sequence[tuple[Window, Detections]], size: tuple[int, int]) -> _Table:
        """The detections of each window, moved to their place in the image."""
        boxes = torch.cat([torch.zeros(0, 4), *(d.boxes.float() + _offset(w) for w, d in found)])
        scores = torch.cat([torch.zeros(0), *(d.scores.float() for _, d in found)])
        labels = torch.cat([torch.zeros(0, dtype=torch.long), *(d.labels.long() for _, d in found)])
        counts = torch.tensor([len(d) for _, d in found], dtype=torch.long)
        numbers = torch.repeat_interleave(torch.arange(len(found)), counts)
        all_windows = torch.tensor([w.xyxy for w, _ in found], dtype=torch.float32).reshape(-1, 4)
        windows = all_windows[numbers]
        view = torch.tensor([w.is_view for w, _ in found], dtype=torch.bool)[numbers]
        return cls(boxes, scores, labels, windows, numbers, view, _cut(boxes, windows, size))


def _offset(window: Window) -> Float[Tensor, "4"]:
    return torch.tensor([window.left, window.top] * 2, dtype=torch.float32)


def _margin(windows: Float[Tensor, "n 4"]) -> Float[Tensor, "n 2"]:
    """Pixels, along x and y."""
    return MARGIN * (windows[:, 2:] - windows[:, :2]) + 1


def _cut(boxes: Tensor, windows: Tensor, size: tuple[int, int]) -> Bool[Tensor, "n 4"]:
    margin = _margin(windows)
    low = (boxes[:, :2] <= windows[:, :2] + margin) & (windows[:, :2] > 0)
    limit = torch.tensor([size[1], size[0]], dtype=torch.float32)
    high = (boxes[:, 2:] >= windows[:, 2:] - margin) & (windows[:, 2:] < limit)
    return torch.cat([low, high], 1)


def _better_seen_by_a_neighbour(table: _Table, tiles: Sequence[Window], size: tuple[int, int]) -> Bool[Tensor, " n"]:
    """Rule 1; and what the view of the entire image shows of objects that fit into what two tiles share."""
    drop = torch.zeros(len(table), dtype=torch.bool)
    for axis, begin, length in ((0, "left", "width"), (1, "top", "height")):
        starts = sorted({getattr(tile, begin) for tile in tiles})
        if len(starts) == 1:
            continue
        side = getattr(tiles[0], length)
        place = torch.tensor(starts, dtype=torch.float32)
        margin = 2 * _margin(table.windows)[:, axis]  # twice, so that two windows do not both leave it to the other
        here = torch.searchsorted(place, table.windows[:, axis].contiguous())
        after, before = place[(here + 1).clamp(max=len(starts) - 1)], place[(here - 1).clamp(min=0)] + side
        low, high = table.boxes[:, axis], table.boxes[:, axis + 2]
        drop |= table.cut[:, axis + 2] & (low >= after + margin)
        drop |= table.cut[:, axis] & (high <= before - margin)
    return drop | (table.is_view & _fits_the_overlap(table, tiles, size))


def _fits_the_overlap(table: _Table, tiles: Sequence[Window], size: tuple[int, int]) -> Bool[Tensor, " n"]:
    fits = torch.ones(len(table), dtype=torch.bool)
    for axis, begin, length in ((0, "left", "width"), (1, "top", "height")):
        starts = sorted({getattr(tile, begin) for tile in tiles})
        side = getattr(tiles[0], length)
        shared = min((a + side - b for a, b in pairwise(starts)), default=side)
        shared -= 2 * (MARGIN * side + 1) if len(starts) > 1 else 0
        fits &= table.boxes[:, axis + 2] - table.boxes[:, axis] <= shared
    return fits


def _once(table: _Table) -> _Table:
    """Rule 2: without the worse seen ones of the detections of one object by different windows."""
    table = table[table.keys.argsort(descending=True, stable=True)]
    first, second = _same(table)
    keys = table.keys
    # greedy, best first, as in non-maximum suppression; cut ones do not suppress each other before they are united
    cut = table.cut.any(1)
    both_cut = cut[first] & cut[second] & (table.numbers[first] >= 0) & (table.numbers[second] >= 0)
    first, second = first[~both_cut], second[~both_cut]
    kept = torch.ones(len(keys), dtype=torch.bool)
    worse: dict[int, list[int]] = {}
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        worse.setdefault(a, []).append(b)
    for a in sorted(worse):
        if kept[a]:
            kept[worse[a]] = False
    return table[kept]


def _united(table: _Table, size: tuple[int, int]) -> _Table:
    """Rule 3."""
    cut = table.cut.any(1).nonzero()[:, 0]
    parts = table[cut]
    first, second = _same(parts)
    low = torch.minimum(parts.scores[first], parts.scores[second])
    like = low >= LIKE * torch.maximum(parts.scores[first], parts.scores[second])
    first, second = first[like], second[like]
    if not len(first):
        return table
    n = len(parts)
    graph = coo_matrix((torch.ones(len(first)).numpy(), (first.numpy(), second.numpy())), shape=(n, n))
    count, group = connected_components(graph, directed=False)
    group = torch.from_numpy(group).long()
    low_high = torch.tensor([1.0, 1.0, -1.0, -1.0])
    hulls, seen = (
        torch.full((count, 4), math.inf).scatter_reduce(0, group[:, None].expand(-1, 4), corners * low_high, "amin")
        * low_high
        for corners in (parts.boxes, parts.windows)
    )
    sizes = torch.bincount(group, minlength=count)
    scores = torch.zeros(count).index_add(0, group, parts.scores) / sizes
    leader = torch.empty(count, dtype=torch.long).scatter_(0, group, torch.arange(n))
    united = replace(parts[leader], boxes=hulls, scores=scores, windows=seen, cut=_cut(hulls, seen, size))
    united = replace(united, numbers=torch.where(sizes > 1, -1 - torch.arange(count), united.numbers))
    whole = torch.ones(len(table), dtype=torch.bool)
    whole[cut] = False
    both = (table[whole], united)
    return _Table(*(torch.cat([getattr(each, name) for each in both]) for name in table.__dataclass_fields__))


def _same(table: _Table) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Pairs (earlier, later row) of one category in different windows whose boxes agree in what both could show."""
    first, second = _touching(table.boxes)
    keep = (table.labels[first] == table.labels[second]) & (table.numbers[first] != table.numbers[second])
    first, second = first[keep], second[keep]
    everywhere = torch.tensor([-math.inf, -math.inf, math.inf, math.inf])
    seen = torch.where(table.cut, table.windows, everywhere)  # a box that is not cut ends where its object does
    one, other = _clipped(table.boxes[first], seen[second]), _clipped(table.boxes[second], seen[first])
    apart = ((one[:, 2:] <= one[:, :2]) | (other[:, 2:] <= other[:, :2])).any(1)
    agrees = (iou_and_giou(one, other)[0] > SAME) & ~apart
    return first[agrees], second[agrees]


def _clipped(boxes: Tensor, to: Tensor) -> Tensor:
    return torch.cat([torch.maximum(boxes[:, :2], to[:, :2]), torch.minimum(boxes[:, 2:], to[:, 2:])], 1)


def _touching(boxes: Float[Tensor, "n 4"]) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Pairs (i < j) of boxes that overlap along x and y, by a sweep along x: memory grows with the pairs, not n^2."""
    order = boxes[:, 0].argsort(stable=True)
    ordered = boxes[order]
    ends = torch.searchsorted(ordered[:, 0].contiguous(), ordered[:, 2].contiguous(), right=True)
    firsts, seconds = [torch.zeros(0, dtype=torch.long)], [torch.zeros(0, dtype=torch.long)]
    block = 2048
    for start in range(0, len(boxes), block):
        rows = torch.arange(start, min(start + block, len(boxes)))
        counts = (ends[rows] - rows - 1).clamp(min=0)
        a = torch.repeat_interleave(rows, counts)
        within = torch.arange(len(a)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        b = a + 1 + within
        meets = (ordered[a, 1] < ordered[b, 3]) & (ordered[b, 1] < ordered[a, 3])
        firsts.append(order[a[meets]])
        seconds.append(order[b[meets]])
    one, other = torch.cat(firsts), torch.cat(seconds)
    return torch.minimum(one, other), torch.maximum(one, other)
