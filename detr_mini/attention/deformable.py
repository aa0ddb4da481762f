"""Deformable attention: a query samples feature maps of several strides at a few places of its choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import grid_sample


def sample_levels(
    values: Sequence[Float[Tensor, "b heads d _ _"]],
    places: Float[Tensor, "b q heads levels points 2"],
    weights: Float[Tensor, "b q heads levels points"],
) -> Float[Tensor, "b q heads d"]:
    """Weighted sum of bilinear samples from each level's map (Zhu et al. 2021, eq. 3).

    `places` are (x, y) in [0, 1] relative to each map, including its padding. Samples outside a map are zero.
    """
    b, q, heads, levels, points, _ = places.shape
    grid = (2 * places - 1).permute(3, 0, 2, 1, 4, 5).reshape(levels, b * heads, q, points, 2)
    weights = weights.permute(3, 0, 2, 1, 4).reshape(levels, b * heads, 1, q, points)
    total = values[0].new_zeros(b * heads, values[0].shape[2], q)
    for value, at, weight in zip(values, grid, weights, strict=True):
        values_there = value.flatten(0, 1).to(at.dtype)  # places keep their precision: bfloat16 knows a map by 1/256
        sampled = grid_sample(values_there, at, mode="bilinear", align_corners=False)
        total = total + (sampled * weight).sum(-1)
    return total.view(b, heads, -1, q).permute(0, 3, 1, 2)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention in plain torch (Zhu et al. 2021, sec. 4.1).

    Each head takes `points` samples from each of `levels` maps around the query's reference. Their offsets and weights
    are linear in the query. The cost is O(q points levels), independent of the maps' size. Modules have the published
    names. `dim` must be a multiple of `heads`.
    """

    def __init__(self, dim: int, heads: int, *, levels: int, points: int = 4) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        """Each head starts with a direction of its own, its points at growing distances, and equal weights."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        far = torch.arange(1.0, self.points + 1)
        start = direction[:, None, None] * far[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(start.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Float[Tensor, "b q c"],
        reference: Float[Tensor, "b q levels two_or_four"],
        maps: Sequence[Float[Tensor, "b c _ _"]],
        padding_masks: Sequence[Bool[Tensor, "b _ _"]] | None = None,
    ) -> Float[Tensor, "b q c"]:
        """`reference`: a point (x, y) or a box (cxcywh) in [0, 1], relative to each map including its padding.

        The unit of the offsets is a cell around a point, and the box's size / (2 `points`) around a box. Padding (True)
        has value zero.
        """
        b = query.shape[0]
        if len(maps) != self.levels or reference.shape[2] != self.levels:
            raise ValueError(f"{len(maps)} maps and {reference.shape[2]} references for {self.levels} levels")
        values = []
        for level, x in enumerate(maps):
            value = self.value_proj(x.flatten(2).transpose(1, 2))
            if padding_masks is not None:
                value = value.masked_fill(padding_masks[level].flatten(1)[..., None], 0.0)
            values.append(value.transpose(1, 2).reshape(b, self.heads, -1, *x.shape[-2:]))
        places, weights = self.looks(query, reference, [(x.shape[-2], x.shape[-1]) for x in maps])
        return self.output_proj(sample_levels(values, places, weights.to(values[0].dtype)).flatten(2))

    def looks(
        self,
        query: Float[Tensor, "b q c"],
        reference: Float[Tensor, "b q levels two_or_four"],
        sizes: Sequence[tuple[int, int]],
    ) -> tuple[Float[Tensor, "b q heads levels points 2"], Float[Tensor, "b q heads levels points"]]:
        """Where each head looks, (x, y) in [0, 1], and with which weights; `sizes` are the maps' (h, w)."""
        shape = (*query.shape[:2], self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).view(*shape, 2)
        weights = self.attention_weights(query).view(*shape[:3], -1)
        precise = torch.promote_types(offsets.dtype, torch.float32)
        offsets, weights = offsets.to(precise), weights.to(precise).softmax(-1).view(shape)
        centre = reference[:, :, None, :, None, :2]
        if reference.shape[-1] == 2:
            unit = 1 / offsets.new_tensor([(w, h) for h, w in sizes])[:, None]
        else:
            unit = reference[:, :, None, :, None, 2:] / (2 * self.points)
        return centre + offsets * unit, weights
