"""Object queries that come from the image: every memory token proposes, the best go on (query selection)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from detr_mini.boxes import box_iou, cxcywh_to_xyxy
from detr_mini.models.mlp import mlp
from detr_mini.structures import Prediction


def visible_size(images: Float[Tensor, "b 3 h w"], padding_mask: Bool[Tensor, "b h w"] | None) -> Float[Tensor, "b 2"]:
    """(width, height) in pixels of each image without its padding."""
    if padding_mask is None:
        b, _, h, w = images.shape
        return torch.stack([images.new_full((b,), w), images.new_full((b,), h)], -1)
    visible = ~padding_mask
    return torch.stack([visible[:, 0].sum(-1), visible[:, :, 0].sum(-1)], -1).float()


def cell_centres(size: tuple[int, int], stride: int, visible: Float[Tensor, "b 2"]) -> Float[Tensor, "b n 2"]:
    """Centres (x, y) of a feature map's cells, row by row, in [0, 1] of the image without padding."""
    h, w = size
    y, x = torch.meshgrid(torch.arange(h, device=visible.device), torch.arange(w, device=visible.device), indexing="ij")
    centres = (torch.stack([x, y], -1).flatten(0, 1) + 0.5) * stride
    return (centres[None] / visible[:, None]).clamp(max=1.0)


def refine(boxes_cxcywh: Float[Tensor, "*n 4"], delta: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """The centre moves by `delta` sizes, the size is multiplied by exp(`delta`) (Ren et al. 2015, eq. 2)."""
    (centre, size), (move, growth) = boxes_cxcywh.chunk(2, -1), delta.chunk(2, -1)
    return torch.cat([centre + move * size, size * growth.clamp(-6, 6).exp()], -1)


class PredictionHead(nn.Module):
    """Class logits and a refinement of a box, from a query's (or a token's) features."""

    def __init__(self, dim: int, num_classes: int, *, prior_bias: float = -4.0) -> None:
        super().__init__()
        self.classify = nn.Linear(dim, num_classes)
        self.move = mlp([dim, dim, 4], last_zero=True)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.constant_(self.classify.bias, prior_bias)

    def forward(self, features: Float[Tensor, "b n c"], boxes: Float[Tensor, "b n 4"]) -> Prediction:
        """`boxes` are refined; logits and boxes are float32 whatever the precision around."""
        return Prediction(self.classify(features).float(), refine(boxes, self.move(features).float()))


CANDIDATES = 4
"""Tokens that are compared with each other, for each query, where proposals must be distinct."""
ROUNDS = 6
"""Of `suppressed`: longer chains of overlapping boxes do not occur among proposals."""


def select(
    proposals: Prediction, features: Float[Tensor, "b n c"], queries: int, distinct_iou: float | int | None = None
) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b q 4"], Bool[Tensor, "b q"] | None]:
    """Features, boxes and visibility of the `queries` tokens with the most chance of a thing (or of all, if fewer).

    The sum over the classes, not the best: a small thing of doubtful class must not give way to a second guess at a
    large one. With `distinct_iou`, a proposal that overlaps a better one by more than that IoU comes after all distinct
    ones, so that the tokens of one large object do not take every query.
    """
    score = proposals.logits.detach().sigmoid().sum(-1)
    if proposals.visible is not None:
        score = score.masked_fill(~proposals.visible, -torch.inf)
    count = torch.sym_min(queries, score.shape[1])  # in an exported graph the number of tokens is a variable
    if distinct_iou is None:
        best: Int[Tensor, "b q"] = score.topk(count, 1).indices
    else:
        some = score.topk(torch.sym_min(CANDIDATES * count, score.shape[1]), 1).indices
        boxes = cxcywh_to_xyxy(proposals.boxes.detach().gather(1, some[..., None].expand(-1, -1, 4)))
        place = torch.arange(boxes.shape[1], device=boxes.device)
        later = suppressed(boxes, distinct_iou)
        if proposals.visible is not None:  # padding stands last in `some`, and stays behind what the image has
            later = later | ~proposals.visible.gather(1, some)
        order = (later * (CANDIDATES * queries) + place).topk(count, 1, largest=False).indices
        best = some.gather(1, order)
    pick = best[..., None]
    boxes = proposals.boxes.detach().gather(1, pick.expand(-1, -1, 4))
    visible = None if proposals.visible is None else proposals.visible.gather(1, best)
    return features.gather(1, pick.expand(-1, -1, features.shape[-1])), boxes, visible


def suppressed(boxes_xyxy: Float[Tensor, "b n 4"], iou: float | int) -> Bool[Tensor, "b n"]:
    """Which boxes greedy non-maximum suppression drops, the best box first, for a whole batch at once.

    A box is dropped where a better one that is kept overlaps it. From "all are kept", this rule is applied to all boxes
    together until nothing changes: after r rounds every chain of at most r boxes is decided as one by one.
    """
    overlaps = (box_iou(boxes_xyxy, boxes_xyxy) > iou).triu(1).float()
    kept = torch.ones_like(overlaps[:, :1])
    for _ in range(ROUNDS):  # a product counts the kept boxes that overlap, several times as fast as `any`
        kept = (kept @ overlaps == 0).float()
    return kept[:, 0] == 0
