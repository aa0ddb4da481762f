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
from detr_mini.losses.matcher import BoxCost, ClassCost, Match, assign, giou_cost, matching_cost
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
    target = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
    wanted = target * quality[..., None].clamp(0, 1) ** gamma
    weight = torch.where(target, 1.0, logits.detach().sigmoid() ** gamma)
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


def join(predictions: Sequence[Prediction]) -> Prediction:
    """Several sets of guesses as one, along the queries: costs and losses are then computed once, not once a set."""
    logits, boxes = torch.cat([p.logits for p in predictions], 1), torch.cat([p.boxes for p in predictions], 1)
    return Prediction(logits, boxes, visible_of(predictions))


def visible_of(predictions: Sequence[Prediction]) -> Bool[Tensor, "b q"] | None:
    """Which guesses of several sets count, along the queries; None if all of them do."""
    if all(p.visible is None for p in predictions):
        return None
    of_each = [p.boxes.new_ones(p.boxes.shape[:2], dtype=torch.bool) if p.visible is None else p.visible
               for p in predictions]  # fmt: skip
    return torch.cat(of_each, 1)


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
        one_to_one = [p for p in (*output.auxiliary, output.proposals) if p is not None]
        one_to_many = [] if output.one_to_many is None else [output.one_to_many]
        # one class loss for each group; that of the first is logged
        groups = [group for group in (([output.final], 1), (one_to_one, 1), (one_to_many, self.copies)) if group[0]]
        sets = [(prediction, copies) for predictions, copies in groups for prediction in predictions]
        noised = () if output.denoising is None else output.denoising.layers
        guesses = join([*(prediction for prediction, _ in sets), *noised])
        widths = [(prediction.boxes.shape[1], copies) for prediction, copies in sets]
        queries = sum(width for width, _ in widths)
        to_match, _ = guesses.split(queries)
        cost = matching_cost(to_match, targets, self.class_cost, self.box_cost, **self.cost_weights)
        match = matched = assign(cost, targets.counts, widths)
        if output.denoising is not None:
            groups.append(([replace(layer, visible=output.denoising.valid) for layer in noised], 1))
            match = with_denoising(matched, output.denoising, first=queries)
        of_boxes, quality, terms = self._box_losses(guesses.boxes.float(), targets, match)
        of_classes = self._class_losses(guesses.logits.float(), targets, match, quality, groups)
        box_weight = 1 + (self.final_box_weight - 1) * max(0.0, 2 * progress - 1)
        total = self.weight_class * torch.stack(of_classes).sum() + box_weight * of_boxes
        terms = {"class": of_classes[0].detach(), **terms}
        return Losses(total, terms, targets.total, matched.first(targets.boxes.shape[1]))

    def _box_losses(
        self, boxes: Float[Tensor, "b q 4"], targets: PackedTargets, match: Match
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b m"], dict[str, Float[Tensor, ""]]]:
        """The weighted sum over all pairs, the IoU of each, and the unweighted sums over those of the final layer."""
        guess = boxes.gather(1, match.query[..., None].expand(-1, -1, 4))
        truth = targets.boxes.gather(1, match.truth[..., None].expand(-1, -1, 4))
        iou, giou = iou_and_giou(cxcywh_to_xyxy(guess), cxcywh_to_xyxy(truth))
        distance = (guess - truth).abs().unflatten(-1, (2, 2))
        pull = self.weight_l1 + self.weight_relative_l1 / truth[..., 2:].clamp(min=1e-3)
        each = (distance * pull[..., None, :]).sum((-2, -1)) + self.weight_giou * (1 - giou)
        n = targets.boxes.shape[1]
        final = match.valid[:, :n]
        terms = {
            "l1": (distance.detach()[:, :n].sum((-2, -1)) * final).sum(),
            "giou": ((1 - giou.detach()[:, :n]) * final).sum(),
        }
        return (each * (match.valid / match.copies)).sum(), iou.detach(), terms

    def _class_losses(
        self,
        logits: Float[Tensor, "b q k"],
        targets: PackedTargets,
        match: Match,
        quality: Float[Tensor, "b m"],
        groups: Sequence[tuple[Sequence[Prediction], int]],
    ) -> list[Float[Tensor, ""]]:
        """The sum over all guesses of each group."""
        q = logits.shape[1]
        labels = match.at_queries(targets.labels.gather(1, match.truth), q, fill=-1)
        qualities = match.at_queries(quality, q, fill=0)
        widths = [sum(p.boxes.shape[1] for p in predictions) for predictions, _ in groups]
        parts = zip(groups, *(x.split(widths, 1) for x in (logits, labels, qualities)), strict=True)
        losses = []
        for (predictions, copies), own_logits, own_labels, own_quality in parts:
            loss = self.class_loss(own_logits, own_labels, own_quality, visible_of(predictions)).sum()
            losses.append(loss if copies == 1 else loss / copies)
        return losses


def with_denoising(match: Match, output: DenoisingOutput, first: int) -> Match:
    """`match`, and the truths that the queries of the denoising layers were made from. They begin at query `first`."""
    layers = len(output.layers)
    truth = output.truth.repeat(1, layers)
    query = torch.arange(first, first + truth.shape[1], device=truth.device).expand_as(truth)
    valid = (output.positive & output.valid).repeat(1, layers)
    return Match(
        torch.cat([match.query, query], 1),
        torch.cat([match.truth, truth], 1),
        torch.cat([match.valid, valid], 1),
        functional.pad(match.copies, (0, truth.shape[1]), value=1),
    )
