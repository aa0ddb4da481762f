"""Self-attention among elements of which some stand in a relation to each other: boxes on a picture, and words."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class PairwiseAttention(nn.Module):
    """Many heads over n elements; the first q of them also know what lies between them and each element, p_ij.

    s_ij = q_i k_j / sqrt(c) + u_i p_ij and o_i = sum_j a_ij (v_j + W p_ij) (after Shaw et al. 2018, eq. 3 and 4, where
    p_ij is a learned vector of the distance): what is between a pair decides who looks at whom, and is told on.
    """

    def __init__(self, dim: int, heads: int, pair_dim: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        self.heads, self.pair_dim = heads, pair_dim
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.pair_query = nn.Linear(dim, heads * pair_dim)
        self.pair_value = nn.Linear(heads * pair_dim, dim, bias=False)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.pair_query.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        x: Float[Tensor, "c n d"],
        pairs: Float[Tensor, "c q n p"],
        barred: Float[Tensor, "c 1 1 n"],
    ) -> Float[Tensor, "c n d"]:
        """`pairs[:, i, j]` is what i sees of j; `barred` is added to the similarities, see `barred_where`."""
        c, n, d = x.shape
        q = pairs.shape[1]
        query, key, value = self.in_proj(x).view(c, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        similarity = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        asked = self.pair_query(x[:, :q]).view(c, q, self.heads, self.pair_dim)
        bias = (asked @ pairs.transpose(-1, -2)).transpose(1, 2)  # (c, heads, q, n)
        similarity = similarity + nn.functional.pad(bias, (0, 0, 0, n - q)) + barred
        # in float32: on a CPU the softmax of a width that fits no register is several times faster so
        weights = similarity.softmax(-1, dtype=torch.promote_types(similarity.dtype, torch.float32)).to(value.dtype)
        answer = (weights @ value).transpose(1, 2).flatten(2)
        between = weights[:, :, :q].transpose(1, 2) @ pairs  # (c, q, heads, p)
        told = nn.functional.pad(self.pair_value(between.flatten(2)), (0, 0, 0, n - q))
        return self.out_proj(answer) + told


def barred_where(blocked: Bool[Tensor, "c n"], dtype: torch.dtype) -> Float[Tensor, "c 1 1 n"]:
    """What is added to similarities so that nobody looks where `blocked` is True. Finite: so are rows full of it."""
    barred = torch.zeros(blocked.shape, dtype=dtype, device=blocked.device)
    return barred.masked_fill_(blocked, torch.finfo(dtype).min / 4)[:, None, None]


def pair_features(boxes: Float[Tensor, "b q 4"]) -> Float[Tensor, "b q q 14"]:
    """What lies between each pair of boxes (cxcywh in [0, 1]): offset, distance, relative size, at several scales."""
    centre, size = boxes[..., :2], boxes[..., 2:].clamp(min=1e-3).log()
    offset = centre[:, None] - centre[:, :, None]
    distance = offset.square().sum(-1, keepdim=True).clamp(min=1e-8).sqrt()
    relative = size[:, None] - size[:, :, None]
    larger = relative.mean(-1, keepdim=True)
    return torch.cat(
        [
            3 * offset,
            (12 * offset).tanh(),
            (3 * offset).square(),
            3 * distance,
            (-6 * distance).exp(),
            distance.clamp(min=0.01).log() / 2,
            relative,
            larger,
            (8 * larger).tanh(),
            torch.eye(boxes.shape[1], dtype=boxes.dtype, device=boxes.device)[None, :, :, None].expand_as(larger),
        ],
        -1,
    )
