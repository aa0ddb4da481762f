"""Which query answers for which truth: the assignment of least cost (Carion et al. 2020, sec. 3.1).

Costs are computed in float32 for the whole padded batch on the device, for all sets of guesses at once (proposals,
every decoder layer, ...): one after the other, along the queries. They go to the host in one transfer, and the answers
come back in one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, generalized_box_iou
from detr_mini.structures import PackedTargets, Prediction

ClassCost = Callable[[Tensor, Tensor], Tensor]
"""(logits, labels of the true boxes) to a cost of every pair; see `focal_cost`."""
BoxCost = Callable[[Tensor, Tensor], Tensor]
"""(boxes, true boxes) to a cost of every pair; see `giou_cost`."""

UNREACHABLE = float(np.finfo(np.float32).max)
"""Cost of a guess that stands for nothing (padding): the solver never sees it."""

WORTH_THREADS = 500_000
"""Costs, counted for each copy, from which images are solved side by side: five milliseconds."""


class NonFiniteCostError(ValueError):
    """A matching cost is NaN or infinite. `rows` are the images of the batch, `sets` places of predictions."""

    def __init__(self, rows: Sequence[int], sets: Sequence[int]) -> None:
        super().__init__(
            f"matching cost is not finite for images {list(rows)} of the batch, prediction sets {list(sets)}"
        )
        self.rows, self.sets = tuple(rows), tuple(sets)


@dataclass(frozen=True)
class Match:
    """For each truth (packed, as often as it is answered for) the query that answers for it."""

    query: Int[Tensor, "b m"]
    truth: Int[Tensor, "b m"]
    """Index into the packed targets."""
    valid: Bool[Tensor, "b m"]
    """False on padding, and for truths that found no query (more truths than queries)."""
    copies: Int[Tensor, " m"]
    """How many queries of the same set answer for each truth."""

    def first(self, truths: int) -> Match:
        """That of the first `truths` columns: of the first set, if it has one answer a truth."""
        return Match(self.query[:, :truths], self.truth[:, :truths], self.valid[:, :truths], self.copies[:truths])

    def at_queries(self, values: Shaped[Tensor, "b m"], queries: int, fill: int) -> Shaped[Tensor, "b {queries}"]:
        """Each of `values` at the query that answers for its truth, and `fill` at all other queries."""
        place = torch.where(self.valid, self.query, queries)  # past the end, which is cut off
        return values.new_full((len(values), queries + 1), fill).scatter(1, place, values)[:, :queries]


def focal_cost(logits: Float[Tensor, "b q k"], labels: Int[Tensor, "b n"]) -> Float[Tensor, "b q n"]:
    """Focal loss of saying "yes" minus that of saying "no", alpha 0.25, gamma 2 (Deformable DETR: Zhu et al. 2021)."""
    p = logits.sigmoid()
    yes = 0.25 * (1 - p) ** 2 * -torch.nn.functional.logsigmoid(logits)
    no = 0.75 * p**2 * -torch.nn.functional.logsigmoid(-logits)
    return _of_labels(yes - no, labels)


def softmax_cost(logits: Float[Tensor, "b q k"], labels: Int[Tensor, "b n"]) -> Float[Tensor, "b q n"]:
    """Minus the probability of the truth's class; the last logit is "no object" (Carion et al. 2020)."""
    return -_of_labels(logits.softmax(-1), labels)


def _of_labels(values: Float[Tensor, "b q k"], labels: Int[Tensor, "b n"]) -> Float[Tensor, "b q n"]:
    return values.gather(2, labels[:, None].expand(-1, values.shape[1], -1))


def giou_cost(boxes: Float[Tensor, "b q 4"], truths: Float[Tensor, "b n 4"]) -> Float[Tensor, "b q n"]:
    """Minus GIoU (Rezatofighi et al. 2019) of boxes in cxcywh, as shares of the image."""
    return -generalized_box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truths))


@torch.no_grad()
def matching_cost(
    prediction: Prediction,
    targets: PackedTargets,
    class_cost: ClassCost,
    box_cost: BoxCost = giou_cost,
    *,
    weight_class: float,
    weight_l1: float,
    weight_giou: float,
) -> Float[Tensor, "b q n"]:
    """Weighted class cost + L1 + box cost (minus GIoU) of every guess with every (padded) truth, in float32.

    `weight_giou` is the weight of `box_cost`, whichever it is.
    """
    boxes = prediction.boxes.float()
    cost = weight_class * class_cost(prediction.logits.float(), targets.labels)
    cost = cost + weight_l1 * torch.cdist(boxes, targets.boxes, p=1)
    cost = cost + weight_giou * box_cost(boxes, targets.boxes)
    if prediction.visible is not None:
        cost = cost.masked_fill(~prediction.visible[..., None], UNREACHABLE)
    return cost


def assign(cost: Float[Tensor, "b q n"], counts: Sequence[int], sets: Sequence[tuple[int, int]] | None = None) -> Match:
    """Solve the assignment of every image and set. `counts`: real truths of each image, the rest of `n` is padding.

    `sets`: the number of queries of each set, and how many of them may answer for one truth. None: a single set with
    one answer for each truth. A query keeps its place among all `q`.

    Raises NonFiniteCostError before the solver sees a cost that is not finite.
    """
    b, q, n = cost.shape
    sets = [(q, 1)] if sets is None else sets
    places = [0, *accumulate(queries for queries, _ in sets)]
    whole = cost.cpu().numpy()  # the step's one transfer to the host
    host = [whole[:, begin:end] for begin, end in pairwise(places)]
    _check_finite(host, counts)
    answers = [np.full((b, copies, n), -1, dtype=np.int64) for _, copies in sets]
    rows = [(place, own[row], count, answer[row])
            for place, own, answer in zip(places, host, answers, strict=False)
            for row, count in enumerate(counts) if count]  # fmt: skip
    threads = torch.get_num_threads()
    if threads > 1 and sum(own.size * len(answer) for _, own, _, answer in rows) >= WORTH_THREADS:
        with ThreadPoolExecutor(threads) as pool:  # the solver lets other threads run
            list(pool.map(_solve, *zip(*rows, strict=True)))
    else:
        for row in rows:
            _solve(*row)
    query = np.concatenate([answer.reshape(b, -1) for answer in answers], 1)
    truth = np.concatenate([np.tile(np.arange(n), copies) for _, copies in sets])
    copied = np.concatenate([np.full(copies * n, copies) for _, copies in sets])
    sent = torch.from_numpy(np.concatenate([query.reshape(-1), truth, copied])).to(cost.device, non_blocking=True)
    chosen, truths, copies_of = sent.split([query.size, truth.size, copied.size])
    chosen = chosen.view(b, -1)
    return Match(chosen.clamp(min=0), truths.expand(b, -1), chosen >= 0, copies_of)


def _solve(place: int, cost: np.ndarray, count: int, answer: np.ndarray) -> None:
    """Write the query of each truth of one image into `answer` (copies, n). `place`: of the first query."""
    reachable = np.flatnonzero(cost[:, 0] != UNREACHABLE)
    query, column = linear_sum_assignment(np.tile(cost[reachable, :count], (1, len(answer))))
    answer[column // count, column % count] = place + reachable[query]


def _check_finite(costs: Sequence[np.ndarray], counts: Sequence[int]) -> None:
    rows, sets = set(), []
    for index, cost in enumerate(costs):
        real = np.arange(cost.shape[2])[None] < np.asarray(counts)[:, None]
        bad = (~np.isfinite(cost) & real[:, None]).any((1, 2))
        rows |= set(np.flatnonzero(bad).tolist())
        sets += [index] * bool(bad.any())
    if sets:
        raise NonFiniteCostError(sorted(rows), sets)
