"""Progressive resizing: a training starts on small images, which are faster, and ends on full-size ones.

Howard 2018 (fast.ai), Tan & Le 2021 (EfficientNetV2, sec. 4). docs/log/photographs.md has what it gains here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn.functional import interpolate

from detr_mini.models.queries import visible_size
from detr_mini.structures import Batch


@dataclass(frozen=True)
class ImageGrowth:
    """Which size images have at which point of the training (`trainer.coarse_scale`, `coarse_until`, `coarse_grow`).

    Sides are multiplied by `scale` until the share `until` of the training is done; after that, images keep their full
    size. With `grow`, the factor rises linearly from `scale` to 1 over that share.
    """

    scale: float | int = 1.0
    until: float | int = 0.0
    grow: bool = False

    def scale_at(self, progress: float) -> float:
        """The factor on the sides when the share `progress` (0 to 1) of the training is done."""
        if progress >= self.until:
            return 1.0
        return self.scale + ((1 - self.scale) * progress / self.until if self.grow else 0.0)


def resized(batch: Batch, scale: float, stride: int) -> Batch:
    """`batch` with its sides multiplied by `scale`, rounded to multiples of `stride`.

    Boxes are relative to the image, so they do not change. A pixel averages the image's own pixels, never padding.
    """
    height, width = (max(1, round(side * scale / stride)) * stride for side in batch.images.shape[-2:])
    if (height, width) == tuple(batch.images.shape[-2:]):
        return batch
    images = interpolate(batch.images, size=(height, width), mode="bilinear", antialias=True)
    if not batch.has_padding:
        return replace(batch, images=images, padding_mask=images.new_zeros(images[:, 0].shape, dtype=torch.bool))
    mask = batch.padding_mask
    share = interpolate((~mask)[:, None].to(images.dtype), size=(height, width), mode="bilinear", antialias=True)
    sides = visible_size(batch.images, mask) * images.new_tensor([width / mask.shape[2], height / mask.shape[1]])
    w, h = sides.round().clamp(min=1)[:, :, None].unbind(1)
    x, y = torch.arange(width, device=mask.device), torch.arange(height, device=mask.device)
    padding = (x >= w)[:, None, :] | (y >= h)[:, :, None]
    return replace(batch, images=(images / share).masked_fill(padding[:, None], 0.0), padding_mask=padding)
