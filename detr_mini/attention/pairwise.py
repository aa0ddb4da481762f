"""Features of each pair of elements: how their boxes relate, and how similar their vectors are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

FEATURES = 17


def pair_features(boxes: Float[Tensor, "b q 4"]) -> Float[Tensor, "b q q 17"]:
    """Offset, distance and relative size of each pair of boxes (cxcywh in [0, 1]), at several scales.

    `[:, i, j]` describes j relative to i. The steepest features are nearly step functions, so their sum over some boxes
    counts how many are to the left, or larger.
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


def likeness(vectors: Float[Tensor, "b q a c"]) -> Float[Tensor, "b q q a"]:
    """The cosine similarity of each pair in each of `a` aspects (colour or shape, for example)."""
    vectors = functional.normalize(vectors.float(), dim=-1)
    return torch.einsum("biac,bjac->bija", vectors, vectors)
