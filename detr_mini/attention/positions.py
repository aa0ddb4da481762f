"""Order for a set operator that knows none: sine codes of places in an image and of boxes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def sine_code(coordinate: Float[Tensor, "*n"], dim: int, temperature: float = 10000.0) -> Float[Tensor, "*n {dim}"]:
    """sin and cos, interleaved, of `coordinate` at dim / 2 wavelengths (Vaswani et al. 2017, sec. 3.5). `dim` is even.

    Wavelengths run from 2 pi to 2 pi `temperature`, in units of the coordinate.
    """
    index = torch.arange(dim // 2, device=coordinate.device, dtype=torch.float32)
    angle = coordinate[..., None] / temperature ** (2 * index / dim)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


def sine_positions_2d(
    padding_mask: Bool[Tensor, "b h w"], dim: int, temperature: float = 10000.0
) -> Float[Tensor, "b h w {dim}"]:
    """Codes of row and column, `dim` / 2 each, rows first, as in DETR (Carion et al. 2020).

    Cells count from the padding mask and the last visible one stands at 2 pi, so padding moves nothing.
    """
    visible = (~padding_mask).float()
    rows, columns = visible.cumsum(1), visible.cumsum(2)
    rows = rows / (rows[:, -1:, :] + 1e-6) * (2 * math.pi)
    columns = columns / (columns[:, :, -1:] + 1e-6) * (2 * math.pi)
    return torch.cat([sine_code(rows, dim // 2, temperature), sine_code(columns, dim // 2, temperature)], -1)


def sine_box_code(
    boxes_cxcywh: Float[Tensor, "*n 4"], dim: int, temperature: float = 20.0
) -> Float[Tensor, "*n {dim}"]:
    """Codes of a box's four numbers, `dim` / 4 each (DAB-DETR: Liu et al. 2022, eq. 4; temperature 20 as there)."""
    code = sine_code(boxes_cxcywh * (2 * math.pi), dim // 4, temperature)
    return code.flatten(-2)
