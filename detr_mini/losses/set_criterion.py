"""The losses of DETR as published (Carion et al. 2020, sec. 3.1), normalised over all processes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from detr_mini.boxes import cxcywh_to_xyxy, iou_and_giou
from detr_mini.losses.criterion import Losses
from detr_mini.losses.matcher import Match, assign, giou_cost, matching_cost, softmax_cost
from detr_mini.structures import DetectorOutput, PackedTargets, Prediction


class SetCriterion:
    """Cross-entropy with a weighted "no object", L1 and GIoU of the matched boxes, the same for every decoder layer.

    The cross-entropy is a mean over a process's queries, weighted by class (so few objects count no less than many);
    the box losses are sums divided by the mean number of truths of a process, at least one. A training divides all by
    the truths of all processes, so the cross-entropy is multiplied here by what that division takes away.
    """

    def __init__(
        self,
        *,
        no_object_weight: float,
        cost_class: float | int,
        cost_l1: float | int,
        cost_giou: float | int,
        weight_class: float | int,
        weight_l1: float | int,
        weight_giou: float | int,
    ) -> None:
        self.no_object_weight = no_object_weight
        self.cost_weights = {"weight_class": cost_class, "weight_l1": cost_l1, "weight_giou": cost_giou}
        self.weights = {"class": weight_class, "l1": weight_l1, "giou": weight_giou}

    def __call__(self, output: DetectorOutput, targets: PackedTargets, progress: float = 0.0) -> Losses:
        """`progress` changes nothing. Raises NonFiniteCostError where a guess is not finite."""
        layers = [output.final, *output.auxiliary]
        costs = [matching_cost(layer, targets, softmax_cost, giou_cost, **self.cost_weights) for layer in layers]
        matches = assign(costs, [targets.counts] * len(layers), [1] * len(layers))
        truths, processes = _over_processes(targets.total)
        scales = {"class": max(truths, 1) / processes, "l1": max(truths, 1) / max(truths, processes)}
        scales["giou"] = scales["l1"]
        total, terms = output.logits.new_zeros(()), dict[str, Tensor]()
        for layer, match in zip(layers, matches, strict=True):
            parts = {name: part * scales[name] for name, part in self.parts(layer, targets, match).items()}
            total = total + sum(self.weights[name] * part for name, part in parts.items())
            terms = terms or {name: part.detach() for name, part in parts.items()}
        return Losses(total, terms, targets.total, matches[0])

    def parts(self, prediction: Prediction, targets: PackedTargets, match: Match) -> dict[str, Float[Tensor, ""]]:
        """Of one layer: class (a weighted mean), l1 and giou (sums over the matched pairs)."""
        image, slot = match.valid.nonzero(as_tuple=True) if match.pairs is None else match.pairs
        query, truth = match.query[image, slot], match.truth[image, slot]
        guess, wanted = prediction.boxes[image, query], targets.boxes[image, truth].to(prediction.boxes.dtype)
        _, giou = iou_and_giou(cxcywh_to_xyxy(guess), cxcywh_to_xyxy(wanted))
        labels = targets.labels.new_full(prediction.logits.shape[:2], prediction.logits.shape[-1] - 1)
        labels[image, query] = targets.labels[image, truth]
        return {
            "class": self._cross_entropy(prediction.logits, labels),
            "l1": (guess - wanted).abs().sum(),
            "giou": (1 - giou).sum(),
        }

    def _cross_entropy(self, logits: Float[Tensor, "b q k"], labels: Int[Tensor, "b q"]) -> Float[Tensor, ""]:
        weight = logits.new_ones(logits.shape[-1])
        weight[-1:].fill_(self.no_object_weight)
        return functional.cross_entropy(logits.transpose(1, 2), labels, weight)


def _over_processes(truths: int) -> tuple[int, int]:
    """The truths of all processes, and how many these are.

    Only in training: in a validation the processes may have different numbers of batches, and would wait for ever.
    The number stays on the host, so that no process waits for its GPU.
    """
    distributed = torch.distributed
    alone = not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1)
    if alone or not torch.is_grad_enabled():
        return truths, 1
    shared = torch.tensor(truths)
    distributed.all_reduce(shared)
    return int(shared), distributed.get_world_size()
