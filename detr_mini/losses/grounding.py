"""What a model with captions minimises besides: words tied to their things, words told apart, offsets from anchors."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from detr_mini.losses.matcher import Match
from detr_mini.structures import Captions, GroundingOutput, PackedTargets


def truth_of_query(match: Match, queries: int) -> Int[Tensor, "b {queries}"]:
    """The truth that each query is matched to, -1 where none."""
    b = len(match.query)
    place = torch.where(match.valid, match.query, queries)  # what is not valid goes past the end
    found = match.truth.new_full((b, queries + 1), -1)
    return found.scatter(1, place, match.truth)[:, :queries]


def grounding_loss(
    output: GroundingOutput,
    captions: Captions,
    targets: PackedTargets,
    match: Match,
    *,
    weight_tokens: float = 1.0,
    weight_tags: float = 1.0,
    weight_offset: float = 1.0,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Sum over the captions, and its parts, detached. Every joint layer counts alike."""
    assert captions.token_map is not None
    assert captions.tags is not None
    assert captions.anchor is not None
    q = output.logits[0].shape[1]
    truth = truth_of_query(match, q)[captions.caption_image]
    of_truth = truth.clamp(min=0)
    spoken = captions.token_map.gather(1, of_truth[..., None].expand(-1, -1, captions.token_map.shape[2]))
    wanted = (spoken & (truth >= 0)[..., None]).float()
    counted = (~captions.padding_mask[:, None]).float()
    logits = torch.stack(output.logits).float()
    tokens = functional.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits), reduction="none") * counted
    tokens = tokens.sum() / len(logits) / 4
    tags = functional.cross_entropy(
        output.tags.float().transpose(1, 2), captions.tags, ignore_index=-1, reduction="none"
    )
    tags = (tags.sum(1) / (captions.tags >= 0).sum(1).clamp(min=1)).sum()
    centres = targets.boxes[captions.caption_image][..., :2]
    start = centres.gather(1, captions.anchor.clamp(min=0)[:, None, None].expand(-1, 1, 2))
    away = 3 * (centres - start)
    away = away.gather(1, of_truth[..., None].expand(-1, -1, 2))
    known = ((truth >= 0) & (captions.anchor >= 0)[:, None]).float()
    offsets = torch.stack(output.offsets).float()
    error = functional.smooth_l1_loss(offsets, away.expand_as(offsets), reduction="none").sum(-1)
    offset = (error * known / known.sum(1, keepdim=True).clamp(min=1)).sum() / len(offsets)
    total = weight_tokens * tokens + weight_tags * tags + weight_offset * offset
    return total, {"tokens": tokens.detach(), "tags": tags.detach(), "offset": offset.detach()}
