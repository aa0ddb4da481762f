"""A feature pyramid: coarse features are upsampled step by step, and finer features of the backbone are added."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from detr_mini.vision.convnet import StandardisedConv
from detr_mini.vision.features import Features
from detr_mini.vision.padding import hide


class TopDown(nn.Module):
    """Each level: nearest upsampling, plus a 1x1 convolution of the backbone's features, plus a residual 3x3.

    The idea is FPN's (Lin et al. 2017). With nearest, not bilinear upsampling, no value crosses the border of padding.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        """`channels` of the backbone's levels, fine to coarse, without the coarsest (`top` in `forward`)."""
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, dim, 1) for c in channels)
        self.mixers = nn.ModuleList(StandardisedConv(dim, dim, after_relu=True) for _ in channels)

    def forward(self, top: Float[Tensor, "b c h w"], finer: Sequence[Features]) -> Float[Tensor, "b c hh ww"]:
        """The finest level. `top` must be zero on padding; `finer` runs from fine to coarse."""
        x = top
        for lateral, mixer, level in reversed(list(zip(self.laterals, self.mixers, finer, strict=True))):
            x = functional.interpolate(x, size=level.tensor.shape[-2:], mode="nearest") + lateral(level.tensor)
            x = hide(x, level.padding_mask)
            x = x + hide(mixer(functional.relu(x)), level.padding_mask)
        return x
