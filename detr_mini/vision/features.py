"""The output of a backbone at one stride."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """A feature map, which of its cells are padding (None: none), and the width of a cell in pixels."""

    tensor: Float[Tensor, "b c h w"]
    padding_mask: Bool[Tensor, "b h w"] | None
    stride: int
