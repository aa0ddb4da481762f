"""From coarse to fine: features of the deepest stride, brought to a finer one with that level's detail added."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from detr_mini.vision.convnet import RELU_GAIN, StandardisedConv
from detr_mini.vision.features import Features
from detr_mini.vision.padding import hide


class TopDown(nn.Module):
    """Each level: nearest upsampling, plus a 1x1 lateral of the backbone's features, plus one residual 3x3 (FPN's idea,
    Lin et al. 2017). Nearest, not bilinear, so that no value crosses the border between image and padding."""

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        """`channels` of the laterals, fine to coarse, without the coarsest level, which comes in as `top`."""
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, dim, 1) for c in channels)
        self.mixers = nn.ModuleList(StandardisedConv(dim, dim) for _ in channels)

    def forward(self, top: Float[Tensor, "b c h w"], finer: Sequence[Features]) -> Float[Tensor, "b c hh ww"]:
        """`top` is zero on padding; `finer` runs fine to coarse. Gives the finest level."""
        x = top
        for lateral, mixer, level in reversed(list(zip(self.laterals, self.mixers, finer, strict=True))):
            x = functional.interpolate(x, size=level.tensor.shape[-2:], mode="nearest") + lateral(level.tensor)
            x = hide(x, level.padding_mask)
            x = x + hide(mixer(functional.relu(x) * RELU_GAIN), level.padding_mask)
        return x
