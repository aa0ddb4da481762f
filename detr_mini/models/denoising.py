"""Contrastive denoising (DINO: Zhang et al. 2022, sec. 3.3): noised truths as extra queries, in training only.

Each truth gives one query that must recover it and one, noised further, that must say "nothing".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detr_mini.structures import PackedTargets
from detr_mini.torch_seeding import counter_noise


@dataclass(frozen=True)
class DenoisingQueries:
    """D = 2 n queries an image: n positive ones, then n negative ones, n the batch's largest number of truths."""

    boxes: Float[Tensor, "b d 4"]
    labels: Int[Tensor, "b d"]
    truth: Int[Tensor, "b d"]
    positive: Bool[Tensor, "b d"]
    valid: Bool[Tensor, "b d"]

    def blocked(self, queries: int) -> Bool[Tensor, "b q_d q_d"]:
        """Who must not look at whom in self-attention: no matching query at any of these, nobody at padding."""
        b, d = self.valid.shape
        blocked = torch.zeros(b, queries + d, queries + d, dtype=torch.bool, device=self.valid.device)
        blocked[:, :queries, queries:] = True
        blocked[:, queries:, queries:] = ~self.valid[:, None, :]
        return blocked


def make_denoising(
    targets: PackedTargets,
    image_ids: Sequence[int],
    *,
    num_classes: int,
    seed: int,
    step: int,
    box_noise: float = 0.4,
    label_noise: float = 0.2,
) -> DenoisingQueries:
    """Noised copies of the truths. A batch without any gets queries that no loss counts, so that every process of a
    distributed training uses the same weights.

    Corners move by up to `box_noise` half-sizes (negatives by one to two times that), labels are redrawn for a share
    `label_noise`.
    """
    b, n = targets.valid.shape
    # ten numbers for each truth's positive, ten for its negative, whatever n the batch has
    noise = counter_noise(seed, step, image_ids, n * 20, targets.boxes.device).view(b, n, 2, 10)
    noise = noise.transpose(1, 2).flatten(1, 2)
    truth = torch.arange(n, device=targets.boxes.device).repeat(2).expand(b, -1)
    positive = torch.arange(2 * n, device=targets.boxes.device).expand(b, -1) < n
    boxes = targets.boxes.repeat(1, 2, 1)
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    sign = torch.where(noise[..., :4] < 0.5, -1.0, 1.0)
    strength = (noise[..., 4:8] + (~positive)[..., None].float()) * box_noise
    shift = sign * strength * half.repeat(1, 1, 2)
    low, high = (centre - half + shift[..., :2]).clamp(0, 1), (centre + half + shift[..., 2:]).clamp(0, 1)
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    noised = torch.cat([(low + high) / 2, (high - low).clamp(min=1e-3)], -1)
    labels = targets.labels.repeat(1, 2)
    redrawn = (noise[..., 9] * num_classes).long()
    labels = torch.where(noise[..., 8] < label_noise, redrawn, labels)
    return DenoisingQueries(noised, labels, truth, positive, targets.valid.repeat(1, 2))
