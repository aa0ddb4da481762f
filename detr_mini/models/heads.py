"""From what a model says of a batch to detections in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import batched_nms

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.structures import Categories, Detections, DetectorOutput

Best: TypeAlias = tuple[Float[Tensor, "b n"], Int[Tensor, "b n"], Int[Tensor, "b n"]]
"""Scores, best first, with the label and the query of each."""


def sigmoid_detections(
    output: DetectorOutput, sizes: Sequence[tuple[int, int]], categories: Categories, limit: int = 100
) -> list[Detections]:
    """The `limit` best of all pairs (query, class) of each image, by sigmoid(logit) (Zhu et al. 2021, Deformable DETR).

    `sizes` are (height, width) in pixels of the original images. No threshold on the score; best first, on the CPU.
    """
    return _detections(*best_pairs(output, limit), output.boxes, sizes, categories)


def best_pairs(output: DetectorOutput, limit: int) -> Best:
    """The selection of `sigmoid_detections`; pairs of queries that stand for nothing have score -1."""
    scores = _hide(output.logits.detach().float().sigmoid(), output.query_visible)
    classes = scores.shape[2]
    best, pair = scores.flatten(1).topk(torch.sym_min(limit, scores.shape[1] * classes), dim=1)
    return best, pair % classes, pair // classes


def softmax_detections(
    output: DetectorOutput, sizes: Sequence[tuple[int, int]], categories: Categories, limit: int = 100
) -> list[Detections]:
    """One detection a query: its best class by softmax, "no object" (the last) left out (Carion et al. 2020).

    `sizes` are (height, width) in pixels of the original images. No threshold on the score; the `limit` best queries,
    best first, on the CPU.
    """
    return _detections(*best_classes(output, limit), output.boxes, sizes, categories)


def best_classes(output: DetectorOutput, limit: int) -> Best:
    """The selection of `softmax_detections`; queries that stand for nothing have score -1."""
    probabilities = output.logits.detach().float().softmax(-1)[..., :-1]
    scores, labels = _hide(probabilities, output.query_visible).max(-1)
    best, query = scores.topk(torch.sym_min(limit, scores.shape[1]), dim=1)
    return best, labels.gather(1, query), query


def suppress(found: Detections, iou: float | int | None) -> Detections:
    """`found`, best first, without those that overlap a better one of their category by more than `iou` (None: all).

    Greedy non-maximum suppression: what is left of a detector's doubles where it has not learned to find things once.
    """
    if iou is None or len(found) < 2:
        return found
    return found[nms(found.boxes, found.scores, found.labels, iou).sort().values]


def nms(
    boxes_xyxy: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], labels: Int[Tensor, " n"], iou: float | int
) -> Int[Tensor, " k"]:
    """The rows that remain where of two boxes of one category with an IoU above `iou` the weaker goes; best first.

    torchvision moves each category to a place of its own. In float64, that costs no precision.
    """
    return batched_nms(boxes_xyxy.double(), scores.double(), labels, iou)


def _hide(scores: Float[Tensor, "b q k"], visible: Bool[Tensor, "b q"] | None) -> Float[Tensor, "b q k"]:
    """Scores below any real one where a query stands for nothing."""
    return scores if visible is None else scores.masked_fill(~visible[..., None], -1.0)


def _detections(
    scores: Float[Tensor, "b n"],
    labels: Int[Tensor, "b n"],
    query: Int[Tensor, "b n"],
    boxes_cxcywh: Float[Tensor, "b q 4"],
    sizes: Sequence[tuple[int, int]],
    categories: Categories,
) -> list[Detections]:
    boxes = boxes_cxcywh.detach().float().gather(1, query[..., None].expand(-1, -1, 4))
    # one transfer for the whole batch; float32 holds labels and queries exactly up to 2^24
    packed = torch.cat([boxes, scores[..., None], labels[..., None].float(), query[..., None].float()], -1).cpu()
    size = torch.tensor([[w, h, w, h] for h, w in sizes], dtype=torch.float32)[:, None]
    boxes = torch.minimum((cxcywh_to_xyxy(packed[..., :4]) * size).clamp(min=0), size)
    scores, labels, query = packed[..., 4], packed[..., 5].long(), packed[..., 6].long()
    counts = (scores >= 0).sum(1).tolist()
    return [
        Detections(
            boxes[i, :n],
            scores[i, :n],
            labels[i, :n],
            categories,
            image_size=(int(sizes[i][0]), int(sizes[i][1])),
            queries=query[i, :n],
        )
        for i, n in enumerate(counts)
    ]
