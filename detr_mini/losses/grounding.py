"""Loss of captions: which query each token refers to, and what each token is (object asked for, anchor, other)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from detr_mini.losses.criterion import DetectionCriterion, Losses
from detr_mini.losses.matcher import Match
from detr_mini.structures import Captions, DetectorOutput, GroundingOutput, PackedTargets


class GroundedCriterion(DetectionCriterion):
    """`DetectionCriterion` plus the mean loss of a batch's captions."""

    def __init__(
        self,
        *,
        weight_tokens: float | int = 1.0,
        weight_tags: float | int = 1.0,
        weight_attributes: float | int = 0.5,
        **kwargs: Any,
    ) -> None:
        """`kwargs`: see `DetectionCriterion`. Weights: see `grounding_loss` and `attribute_loss`."""
        super().__init__(**kwargs)
        self.grounding = {"weight_tokens": weight_tokens, "weight_tags": weight_tags}
        self.weight_attributes = weight_attributes

    def __call__(
        self, output: DetectorOutput, targets: PackedTargets, progress: float = 0.0, captions: Captions | None = None
    ) -> Losses:
        """See `DetectionCriterion`. The number of boxes, which divides the sum later, multiplies the captions' mean."""
        losses = super().__call__(output, targets, progress)
        if captions is None or output.grounding is None or not len(captions.token_ids):
            return losses
        assert losses.match is not None
        loss, terms = grounding_loss(output.grounding, captions, losses.match, output.query_visible, **self.grounding)
        share = max(losses.boxes, 1) / len(captions.token_ids)
        terms = {name: term * share for name, term in terms.items()}
        total = losses.total + loss * share
        if output.grounding.attributes is not None and captions.attributes is not None:
            looks = attribute_loss(output.grounding.attributes, captions.attributes, losses.match)
            total, terms["attributes"] = total + self.weight_attributes * looks, looks.detach()
        return replace(losses, total=total, terms={**losses.terms, **terms})


def of_truths(per_truth: Bool[Tensor, "r n a"], truth: Int[Tensor, "r q"]) -> Float[Tensor, "r q a"]:
    """Row of `per_truth` for each query's ground truth, zeros for a query without one (-1)."""
    values = per_truth.gather(1, truth.clamp(min=0)[..., None].expand(-1, -1, per_truth.shape[2]))
    return (values & (truth >= 0)[..., None]).float()


def attribute_loss(
    logits: Float[Tensor, "b q a"], attributes: Bool[Tensor, "b n a"], match: Match
) -> Float[Tensor, ""]:
    """Binary cross-entropy over the attributes of each matched query's ground truth, summed."""
    truth = match.at_queries(match.truth, logits.shape[1], fill=-1)
    loss = functional.binary_cross_entropy_with_logits(logits, of_truths(attributes, truth), reduction="none").sum(-1)
    return (loss * (truth >= 0)).sum()


def grounding_loss(
    output: GroundingOutput,
    captions: Captions,
    match: Match,
    visible: Bool[Tensor, "b q"] | None = None,
    *,
    weight_tokens: float = 1.0,
    weight_tags: float = 1.0,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Loss summed over the captions, and its detached terms. Layers have equal weight.

    `visible`: False for queries that stand for padding; they cost nothing.
    """
    assert captions.token_map is not None
    assert captions.tags is not None
    q = output.logits[0].shape[1]
    truth = match.at_queries(match.truth, q, fill=-1)[captions.caption_image]
    wanted = of_truths(captions.token_map, truth)
    counted = (~captions.padding_mask[:, None]).float()
    if visible is not None:
        counted = counted * visible[captions.caption_image][..., None]
    logits = torch.stack(output.logits).float()
    tokens = functional.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits), reduction="none") * counted
    tokens = tokens.sum() / len(logits) / 4
    tags = functional.cross_entropy(
        output.tags.float().transpose(1, 2), captions.tags, ignore_index=-1, reduction="none"
    )
    tags = (tags.sum(1) / (captions.tags >= 0).sum(1).clamp(min=1)).sum()
    total = weight_tokens * tokens + weight_tags * tags
    return total, {"tokens": tokens.detach(), "tags": tags.detach()}
