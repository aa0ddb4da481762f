"""Positions for a set operator, which knows no order: codes that are added, biases, and rotary embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detr_mini.errors import ConfigError

HIDDEN = 6.0
"""The initial cost of a direction in which a head does not look."""


def sine_code(coordinate: Float[Tensor, "*n"], dim: int, temperature: float = 10000.0) -> Float[Tensor, "*n {dim}"]:
    """sin and cos of `coordinate`, interleaved, at dim / 2 wavelengths (Vaswani et al. 2017, sec. 3.5). `dim` is even.

    The wavelengths run from 2 pi to 2 pi `temperature`, in units of the coordinate.
    """
    precise = torch.promote_types(coordinate.dtype, torch.float32)
    index = torch.arange(dim // 2, device=coordinate.device, dtype=precise)
    angle = coordinate[..., None] / temperature ** (2 * index / dim)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


def check_sine_width(dim: int) -> None:
    """ConfigError where `dim` channels cannot be shared by sine and cosine of two coordinates."""
    if dim % 4:
        raise ConfigError(f"model.dim is {dim}; it must be a multiple of 4, for sine and cosine of x and y")


def sine_positions_1d(
    padding_mask: Bool[Tensor, "b n"], dim: int, temperature: float = 10000.0
) -> Float[Tensor, "b n {dim}"]:
    """Codes of the positions 0, 1, 2, ... of the elements that are not padding (Vaswani et al. 2017, sec. 3.5)."""
    return sine_code((~padding_mask).cumsum(1).sub(1).clamp(min=0).float(), dim, temperature)


def sine_positions_2d(
    padding_mask: Bool[Tensor, "b h w"], dim: int, temperature: float = 10000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "b h w {dim}"]:
    """Codes of row and column, `dim` / 2 each, rows first, as in DETR (Carion et al. 2020), computed in `dtype`.

    Only visible cells are counted, and the last one is at 2 pi, so padding changes no code.
    """
    visible = (~padding_mask).to(dtype)
    rows, columns = visible.cumsum(1), visible.cumsum(2)
    rows = rows / (rows[:, -1:, :] + 1e-6) * (2 * math.pi)
    columns = columns / (columns[:, :, -1:] + 1e-6) * (2 * math.pi)
    return torch.cat([sine_code(rows, dim // 2, temperature), sine_code(columns, dim // 2, temperature)], -1)


def sine_box_code(
    boxes_cxcywh: Float[Tensor, "*n 4"], dim: int, temperature: float = 20.0
) -> Float[Tensor, "*n {dim}"]:
    """Codes of a box's four numbers, `dim` / 4 each, as in DAB-DETR (Liu et al. 2022, eq. 4)."""
    code = sine_code(boxes_cxcywh * (2 * math.pi), dim // 4, temperature)
    return code.flatten(-2)


class LearnedPositions1d(nn.Module):
    """A learned vector for each of `places` positions. ValueError for a longer sequence."""

    def __init__(self, places: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(places, dim) * 0.02)

    def forward(self, n: int) -> Float[Tensor, "n c"]:
        """The first `n` positions."""
        if n > len(self.table):
            raise ValueError(f"{n} elements are more than the {len(self.table)} learned positions")
        return self.table[:n]


class LearnedPositions2d(nn.Module):
    """A learned vector for each of `side` rows and columns, half of `dim` each, rows first as in `sine_positions_2d`.

    The published DETR has columns first. ValueError for a map higher or wider than `side`.
    """

    def __init__(self, side: int, dim: int) -> None:
        super().__init__()
        self.rows, self.columns = LearnedPositions1d(side, dim // 2), LearnedPositions1d(side, dim // 2)

    def forward(self, h: int, w: int) -> Float[Tensor, "h w c"]:
        """Positions of a map of h x w cells."""
        rows, columns = self.rows(h)[:, None], self.columns(w)[None]
        return torch.cat([rows.expand(h, w, -1), columns.expand(h, w, -1)], -1)


class DistanceBias(nn.Module):
    """A learned bias per head and distance j - i, added to the similarity of query i and key j (Raffel et al. 2020,
    sec. 2.1).

    Distances above `reach` count as `reach`. `slopes`: for each head, the initial cost of a step back and of a step
    ahead (constant in Press et al. 2022); None where the head does not look in that direction at first.
    """

    offset: Tensor

    def __init__(self, slopes: Sequence[tuple[float | None, float | None]], reach: int = 16) -> None:
        super().__init__()
        self.reach = reach
        distance = torch.arange(-reach, reach + 1)
        rows = []
        for back, ahead in slopes:
            costs = (HIDDEN if cost is None else cost * distance.abs() for cost in (back, ahead))
            there_back, there_ahead = (torch.as_tensor(cost, dtype=torch.float32) for cost in costs)
            rows.append(-torch.where(distance < 0, there_back, there_ahead).masked_fill(distance == 0, 0.0))
        self.table = nn.Parameter(torch.stack(rows))

    def forward(self, n: int) -> Float[Tensor, "h {n} {n}"]:
        """The bias between n elements of a sequence."""
        place = torch.arange(n, device=self.table.device)
        return self.table[:, (place[None] - place[:, None]).clamp(-self.reach, self.reach) + self.reach]


def rotate(
    x: Float[Tensor, "*n c"], coordinate: Float[Tensor, "..."], temperature: float = 10000.0
) -> Float[Tensor, "*n c"]:
    """Rotate each pair of neighbouring channels by an angle proportional to `coordinate` (Su et al. 2021, "RoFormer").

    With queries and keys rotated, their dot product depends on the difference of coordinates only. `coordinate`
    broadcasts to x without its channels, and c is even. Angles are in radians, at c / 2 frequencies from 1 to 1 /
    `temperature` per unit.
    """
    c = x.shape[-1]
    if c % 2:
        raise ValueError(f"rotary positions need an even number of channels, not {c}")
    precise = torch.promote_types(x.dtype, torch.float32)
    frequency = temperature ** (-torch.arange(0, c, 2, device=x.device, dtype=precise) / c)
    angle = coordinate[..., None] * frequency
    even, odd = x.to(precise).unflatten(-1, (c // 2, 2)).unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)


def rotate_2d(
    x: Float[Tensor, "*n c"], places: Float[Tensor, "... 2"], temperature: float = 100.0
) -> Float[Tensor, "*n c"]:
    """Axial rotary positions: half of the channels rotate by the first coordinate, half by the other (Heo et al. 2024).

    The dot product depends on the offset only. c is a multiple of four.
    """
    if x.shape[-1] % 4:
        raise ValueError(f"rotary positions in two dimensions need a multiple of four channels, not {x.shape[-1]}")
    first, second = x.chunk(2, -1)
    turned = [rotate(part, places[..., axis], temperature) for axis, part in enumerate((first, second))]
    return torch.cat(turned, -1)
