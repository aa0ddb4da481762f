"""What lies between each pair of a set's elements: boxes on a picture, and how alike their things are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

FEATURES = 17


def pair_features(boxes: Float[Tensor, "b q 4"]) -> Float[Tensor, "b q q 17"]:
    """Between each pair of boxes (cxcywh in [0, 1]): offset, distance, relative size, at several scales.

    `[:, i, j]` is what i sees of j. The steepest features are nearly steps: their sum over some boxes counts those to
    the left, or those that are larger.
    """
    centre, size = boxes[..., :2], boxes[..., 2:].clamp(min=1e-3).log()
    offset = centre[:, None] - centre[:, :, None]
    distance = offset.square().sum(-1, keepdim=True).clamp(min=1e-8).sqrt()
    relative = size[:, None] - size[:, :, None]
    larger = relative.mean(-1, keepdim=True)
    return torch.cat(
        [
            3 * offset,
            (12 * offset).tanh(),
            (48 * offset).tanh(),
            (3 * offset).square(),
            3 * distance,
            (-6 * distance).exp(),
            distance.clamp(min=0.01).log() / 2,
            relative,
            larger,
            (8 * larger).tanh(),
            (24 * larger).tanh(),
            torch.eye(boxes.shape[1], dtype=boxes.dtype, device=boxes.device)[None, :, :, None].expand_as(larger),
        ],
        -1,
    )


def likeness(looks: Float[Tensor, "b q a c"]) -> Float[Tensor, "b q q a"]:
    """Cosine of each pair's vectors, in each of `a` respects: of one colour, of one shape."""
    looks = functional.normalize(looks.float(), dim=-1)
    return torch.einsum("biac,bjac->bija", looks, looks)
