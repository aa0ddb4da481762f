"""Smaller images while a training is young: more of them a second, and the details can wait."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn.functional import interpolate

from detr_mini.models.queries import visible_size
from detr_mini.structures import Batch


@dataclass(frozen=True)
class Coarse:
    """Images have `scale` of their sides up to the share `until` of a training; or, with `grow`, they begin there and
    grow evenly up to all of them."""

    scale: float | int = 1.0
    until: float | int = 0.0
    grow: bool = False

    def scale_at(self, progress: float) -> float:
        """Of the sides, at a share of the training in [0, 1]."""
        if progress >= self.until:
            return 1.0
        return self.scale + ((1 - self.scale) * progress / self.until if self.grow else 0.0)


def coarsened(batch: Batch, scale: float, stride: int) -> Batch:
    """`batch` with sides of about `scale` times, in whole strides (progressive resizing: Howard 2018; Tan & Le 2021).

    Boxes are shares of an image, so they stay. A pixel is an average over the image's own pixels, never over padding.
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
