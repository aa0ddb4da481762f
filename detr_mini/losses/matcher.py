"""Which query answers for which truth: the assignment of least cost (Carion et al. 2020, sec. 3.1).

Costs are computed in float32 for the whole padded batch on the device. All sets of a step (proposals, every decoder
layer, ...) go to the host in one transfer and the answers come back in one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
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


class NonFiniteCostError(ValueError):
    """A matching cost is NaN or infinite. `rows` are the images of the batch, `sets` places of predictions."""

    def __init__(self, rows: Sequence[int], sets: Sequence[int]) -> None:
        super().__init__(
            f"matching cost is not finite for images {list(rows)} of the batch, prediction sets {list(sets)}"
        )
        self.rows, self.sets = tuple(rows), tuple(sets)


@dataclass(frozen=True)
class Match:
    """For each truth (packed, times `copies`) the query that answers for it."""

    query: Int[Tensor, "b n"]
    truth: Int[Tensor, "b n"]
    """Index into the packed targets."""
    valid: Bool[Tensor, "b n"]
    """False on padding, and for truths that found no query (more truths than queries)."""
    pairs: Int[Tensor, "2 m"] | None = None
    """Row and column of each valid one, as the host knows them: `valid.nonzero()` would wait for the device."""


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


def assign(
    costs: Sequence[Float[Tensor, "_ _ n"]], counts: Sequence[Sequence[int]], copies: Sequence[int]
) -> list[Match]:
    """Solve every set's assignment. `counts[i]`: real truths of each of its rows, the rest is padding. `copies[i]`:
    each truth of set i may be answered for by that many queries.

    Raises NonFiniteCostError before the solver sees a cost that is not finite.
    """
    n, device = costs[0].shape[2], costs[0].device
    flat = torch.cat([cost.reshape(-1) for cost in costs]).cpu().numpy()  # the step's one transfer to the host
    bounds = np.cumsum([0] + [cost.numel() for cost in costs])
    host = [flat[lo:hi].reshape(c.shape) for lo, hi, c in zip(bounds[:-1], bounds[1:], costs, strict=True)]
    _check_finite(host, counts)
    answers = [_solve(cost, count, times) for cost, count, times in zip(host, counts, copies, strict=True)]
    pairs = [np.stack(np.nonzero(answer >= 0)) for answer in answers]
    blocks = [*answers, *pairs]
    sent = torch.from_numpy(np.concatenate([block.reshape(-1) for block in blocks])).to(device, non_blocking=True)
    there = [part.view(block.shape) for part, block in zip(sent.split([b.size for b in blocks]), blocks, strict=True)]
    matches = []
    for chosen, pair, times in zip(there[: len(answers)], there[len(answers) :], copies, strict=True):
        truth = torch.arange(n, device=device).repeat(times).expand(len(chosen), -1)
        matches.append(Match(chosen.clamp(min=0), truth, chosen >= 0, pair))
    return matches


def _solve(cost: np.ndarray, counts: Sequence[int], copies: int) -> np.ndarray:
    """The query of each truth, (b, copies * n), -1 where there is none."""
    b, _, n = cost.shape
    answer = np.full((b, copies, n), -1, dtype=np.int64)
    for row, count in enumerate(counts):  # the solver takes one image at a time
        if count:
            reachable = np.flatnonzero(cost[row, :, 0] != UNREACHABLE)
            query, column = linear_sum_assignment(np.tile(cost[row, reachable, :count], (1, copies)))
            answer[row, column // count, column % count] = reachable[query]
    return answer.reshape(b, copies * n)


def _check_finite(costs: Sequence[np.ndarray], counts: Sequence[Sequence[int]]) -> None:
    rows, sets = set(), []
    for index, (cost, count) in enumerate(zip(costs, counts, strict=True)):
        real = np.arange(cost.shape[2])[None] < np.asarray(count)[:, None]
        bad = (~np.isfinite(cost) & real[:, None]).any((1, 2))
        rows |= set(np.flatnonzero(bad).tolist())
        sets += [index] * bool(bad.any())
    if sets:
        raise NonFiniteCostError(sorted(rows), sets)
