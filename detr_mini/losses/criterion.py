"""What training minimises: class and box losses of every set of guesses, summed over the batch's truths.

Sums, not means: the task divides the gradient once by the number of truths over all processes and over the whole
accumulation window, so that neither changes the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from detr_mini.boxes import cxcywh_to_xyxy, iou_and_giou
from detr_mini.losses.matcher import BoxCost, ClassCost, Match, NonFiniteCostError, assign, giou_cost, matching_cost
from detr_mini.structures import DenoisingOutput, DetectorOutput, PackedTargets, Prediction

ClassLoss = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def matchability_loss(
    logits: Float[Tensor, "b q k"],
    labels: Int[Tensor, "b q"],
    quality: Float[Tensor, "b q"],
    counted: Bool[Tensor, "b q"] | None,
    gamma: float = 1.5,
) -> Float[Tensor, " b"]:
    """Matchability-aware loss (DEIM: Huang et al. 2025, eq. 4), summed for each image.

    The target of a matched query's class is IoU^gamma, and every "no" is weighted with p^gamma.

    `labels` is -1 where a query is matched to nothing; `quality` is the matched box's IoU; only the `counted` count.
    """
    matched = labels >= 0
    target = functional.one_hot(labels.clamp(min=0), logits.shape[-1]) * matched[..., None]
    wanted = target * quality[..., None].clamp(0, 1) ** gamma
    weight = torch.where(target.bool(), 1.0, logits.detach().sigmoid() ** gamma)
    loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight
    return (loss if counted is None else loss * counted[..., None]).sum((1, 2))


def no_object_cross_entropy(
    logits: Float[Tensor, "b q k"],
    labels: Int[Tensor, "b q"],
    quality: Float[Tensor, "b q"],
    counted: Bool[Tensor, "b q"] | None,
    no_object_weight: float = 0.1,
) -> Float[Tensor, " b"]:
    """Cross-entropy with the last class "no object", weighted down (Carion et al. 2020, sec. 3.1), summed an image."""
    classes = logits.shape[-1]
    weight = logits.new_ones(classes)
    weight[-1:].fill_(no_object_weight)
    target = torch.where(labels >= 0, labels, classes - 1)
    loss = functional.cross_entropy(logits.transpose(1, 2), target, weight, reduction="none")
    return (loss if counted is None else loss * counted).sum(1)


@dataclass(frozen=True)
class Losses:
    """Sums over the truths of a batch. Divide by `boxes` (of the window and of all processes) to train."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    """The unweighted parts of the final layer, detached, for the log: class, l1, giou."""
    boxes: int = 0
    match: Match | None = None
    """Of the final layer."""


def stack(predictions: Sequence[Prediction]) -> Prediction:
    """Several predictions of one shape as one, along the batch: losses then run once and not once a layer."""
    visible = [p.visible for p in predictions if p.visible is not None]
    return Prediction(
        torch.cat([p.logits for p in predictions]),
        torch.cat([p.boxes for p in predictions]),
        torch.cat(visible) if visible else None,
    )


def repeat(targets: PackedTargets, times: int) -> PackedTargets:
    """The truths again for each of `times` stacked predictions."""
    return replace(
        targets,
        boxes=targets.boxes.repeat(times, 1, 1),
        labels=targets.labels.repeat(times, 1),
        valid=targets.valid.repeat(times, 1),
        counts=targets.counts * times,
    )


class DetectionCriterion:
    """Losses of a whole `DetectorOutput`.

    Every decoder layer, the proposals, the one-to-many head and the denoising layers count once, each by its own number
    of truths (a head with four copies of each truth is divided by four).
    """

    def __init__(
        self,
        *,
        class_cost: ClassCost,
        box_cost: BoxCost = giou_cost,
        class_loss: ClassLoss,
        cost_class: float,
        cost_l1: float = 5.0,
        cost_giou: float = 2.0,
        weight_class: float = 1.0,
        weight_l1: float = 5.0,
        weight_giou: float,
        weight_relative_l1: float = 0.0,
        final_box_weight: float = 1.0,
        copies: int = 4,
    ) -> None:
        """`class_cost`, `box_cost` and the `cost_` weights decide the matching (`matching_cost`; `cost_giou` weighs
        `box_cost`), `class_loss` and the `weight_` weights the loss. `final_box_weight`: what the box losses are
        multiplied with at the end; it grows from 1 over the second half. `copies`: of each truth for the one-to-many
        head (Group DETR's and H-DETR's idea on dense proposals)."""
        self.class_cost, self.box_cost, self.class_loss = class_cost, box_cost, class_loss
        self.cost_weights = {"weight_class": cost_class, "weight_l1": cost_l1, "weight_giou": cost_giou}
        self.weight_class, self.weight_l1, self.weight_giou = weight_class, weight_l1, weight_giou
        self.weight_relative_l1, self.final_box_weight, self.copies = weight_relative_l1, final_box_weight, copies

    def __call__(self, output: DetectorOutput, targets: PackedTargets, progress: float = 0.0) -> Losses:
        """`progress` of the training in [0, 1]. Raises NonFiniteCostError where a guess is not finite."""
        layers = [output.final, *output.auxiliary]
        dense = [(output.proposals, 1), (output.one_to_many, self.copies)]
        groups = [(stack(layers), repeat(targets, len(layers)), 1)]
        groups += [(prediction, targets, copies) for prediction, copies in dense if prediction is not None]
        costs = [matching_cost(p, t, self.class_cost, self.box_cost, **self.cost_weights) for p, t, _ in groups]
        try:
            matches = assign(costs, [t.counts for _, t, _ in groups], [copies for *_, copies in groups])
        except NonFiniteCostError as error:
            raise NonFiniteCostError(sorted({row % len(targets.counts) for row in error.rows}), error.sets) from None
        box_weight = 1 + (self.final_box_weight - 1) * max(0.0, 2 * progress - 1)
        total = output.logits.new_zeros(())
        terms: dict[str, Tensor] = {}
        for (prediction, truths, copies), match in zip(groups, matches, strict=True):
            parts = self._set_losses(prediction, truths, match, prediction.visible)
            total = total + self._weigh(parts, box_weight) / copies
            if not terms:  # of the final layer alone: it stands first in the stack
                b = len(targets.counts)
                terms = {name: parts[name][:b].detach().sum() for name in ("class", "l1", "giou")}
        if output.denoising is not None:
            total = total + self._denoising(output.denoising, targets, box_weight)
        b = len(targets.counts)
        final = Match(matches[0].query[:b], matches[0].truth[:b], matches[0].valid[:b])
        return Losses(total, terms, targets.total, final)

    def _denoising(self, output: DenoisingOutput, targets: PackedTargets, box_weight: float) -> Tensor:
        layers = len(output.layers)
        truth, valid = output.truth.repeat(layers, 1), output.valid.repeat(layers, 1)
        query = torch.arange(truth.shape[1], device=truth.device).expand_as(truth)
        match = Match(query, truth, output.positive.repeat(layers, 1) & valid)
        return self._weigh(self._set_losses(stack(output.layers), repeat(targets, layers), match, valid), box_weight)

    def _weigh(self, parts: dict[str, Tensor], box_weight: float) -> Tensor:
        boxes = self.weight_l1 * parts["l1"] + self.weight_giou * parts["giou"]
        boxes = boxes + self.weight_relative_l1 * parts["relative_l1"]
        return (self.weight_class * parts["class"] + box_weight * boxes).sum()

    def _set_losses(
        self, prediction: Prediction, targets: PackedTargets, match: Match, counted: Bool[Tensor, "b q"] | None
    ) -> dict[str, Tensor]:
        """Sums over matched pairs (boxes) and over all guesses (class), for each row of the batch."""
        guess = prediction.boxes.float().gather(1, match.query[..., None].expand(-1, -1, 4))
        truth = targets.boxes.gather(1, match.truth[..., None].expand(-1, -1, 4))
        pair = match.valid.float()
        iou, giou = iou_and_giou(cxcywh_to_xyxy(guess), cxcywh_to_xyxy(truth))
        distance = (guess - truth).abs()
        relative = distance / truth[..., 2:].repeat(1, 1, 2).clamp(min=1e-3)
        b, q = prediction.logits.shape[:2]
        # Unmatched truths write to a place past the last query, which is cut off.
        place = torch.where(match.valid, match.query, q)
        labels = targets.labels.new_full((b, q + 1), -1)
        labels = labels.scatter(1, place, targets.labels.gather(1, match.truth))[:, :q]
        quality = iou.new_zeros(b, q + 1).scatter(1, place, iou.detach())[:, :q]
        return {
            "class": self.class_loss(prediction.logits.float(), labels, quality, counted),
            "l1": (distance.sum(-1) * pair).sum(-1),
            "giou": ((1 - giou) * pair).sum(-1),
            "relative_l1": (relative.sum(-1) * pair).sum(-1),
        }
