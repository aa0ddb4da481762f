"""Each query looks closely inside its own box: a grid of bilinear samples of a fine feature map.

The idea is BoxeR's box attention (Nguyen et al. 2022) with fixed places and a linear layer in place of weights.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


def grid_lines(
    boxes_cxcywh: Float[Tensor, "b q 4"], points: int, spread: float
) -> tuple[Float[Tensor, "b q p"], Float[Tensor, "b q p"]]:
    """x and y of `points` evenly spaced lines over `spread` times the box, in the box's unit."""
    offset = (torch.arange(points, device=boxes_cxcywh.device) + (1 - points) / 2) * (spread / points)
    x, y, width, height = boxes_cxcywh.split(1, -1)
    return x + width * offset, y + height * offset


def sample_plain(
    features: Float[Tensor, "b c h w"], x: Float[Tensor, "b q p"], y: Float[Tensor, "b q p"]
) -> Float[Tensor, "b q p p c"]:
    """Bilinear samples at every crossing (y_i, x_j), coordinates in cells (cell 0's centre is 0.5); zeros outside."""
    b, q, p = x.shape
    x, y = x * (2 / features.shape[3]), y * (2 / features.shape[2])
    grid = torch.stack(torch.broadcast_tensors(x[:, :, None, :], y[:, :, :, None]), -1) - 1
    samples = functional.grid_sample(features, grid.reshape(b, q * p, p, 2), align_corners=False)
    return samples.view(b, -1, q, p, p).permute(0, 2, 3, 4, 1)


def hat_weights(coordinate: Float[Tensor, "b q p"], cells: int) -> Float[Tensor, "b q p {cells}"]:
    """Bilinear interpolation as a matrix: max(0, 1 - |distance to each cell's centre|)."""
    centres = torch.arange(cells, device=coordinate.device) + 0.5
    return (1 - (coordinate[..., None] - centres).abs()).relu()


def sample_products(
    features: Float[Tensor, "b c h w"], x: Float[Tensor, "b q p"], y: Float[Tensor, "b q p"]
) -> Float[Tensor, "b q p p c"]:
    """`sample_plain` as two matrix products, since a grid's samples are separable: rows first, then columns.

    More operations, but what a GPU is good at, and a gradient of the same bits every time, which torch's own has not.
    """
    b, c, h, w = features.shape
    q, p = x.shape[1:]
    rows = hat_weights(y, h).flatten(1, 2) @ features.permute(0, 2, 3, 1).reshape(b, h, w * c)
    return hat_weights(x, w)[:, :, None] @ rows.view(b, q, p, w, c)


def sample(
    features: Float[Tensor, "b c h w"], x: Float[Tensor, "b q p"], y: Float[Tensor, "b q p"]
) -> Float[Tensor, "b q p p c"]:
    """The faster of the two: on a CPU the plain form, ten times and more without a gradient."""
    return (sample_plain if features.is_cpu else sample_products)(features, x, y)


class BoxAttention(nn.Module):
    """points x points samples over `spread` times a query's box, through one linear layer."""

    def __init__(self, channels: int, dim: int, *, points: int = 7, spread: float = 1.2) -> None:
        super().__init__()
        self.points, self.spread = points, spread
        self.project = nn.Linear(channels * points * points, dim)

    def places(self, boxes_cxcywh: Float[Tensor, "b q 4"]) -> Float[Tensor, "b q pp 2"]:
        """x, y of each sample, in the boxes' unit, row by row."""
        x, y = grid_lines(boxes_cxcywh, self.points, self.spread)
        return torch.stack(torch.broadcast_tensors(x[:, :, None, :], y[:, :, :, None]), -1).flatten(2, 3)

    def forward(
        self, boxes_cxcywh: Float[Tensor, "b q 4"], features: Float[Tensor, "b c h w"], cells: Float[Tensor, "b 2"]
    ) -> Float[Tensor, "b q d"]:
        """`cells` (width, height) is how many cells of `features` the image without padding spans."""
        x, y = grid_lines(boxes_cxcywh, self.points, self.spread)
        samples = sample(features, x * cells[:, None, 0:1], y * cells[:, None, 1:2])
        return self.project(samples.flatten(2))
