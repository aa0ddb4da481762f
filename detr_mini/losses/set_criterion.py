"""The losses of DETR as published (Carion et al. 2020, sec. 3.1), normalised over all processes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from detr_mini.boxes import cxcywh_to_xyxy, iou_and_giou
from detr_mini.losses.criterion import Losses, join
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
        guesses, n = join(layers), targets.boxes.shape[1]
        cost = matching_cost(guesses, targets, softmax_cost, giou_cost, **self.cost_weights)
        match = assign(cost, targets.counts, [(layer.boxes.shape[1], 1) for layer in layers])
        truths, processes = _over_processes(targets.total)
        scales = {"class": max(truths, 1) / processes, "l1": max(truths, 1) / max(truths, processes)}
        scales["giou"] = scales["l1"]
        parts = {name: part * scales[name] for name, part in self.parts(guesses, targets, match, len(layers)).items()}
        total = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return Losses(total, {name: part[0].detach() for name, part in parts.items()}, targets.total, match.first(n))

    def parts(
        self, guesses: Prediction, targets: PackedTargets, match: Match, layers: int
    ) -> dict[str, Float[Tensor, " layers"]]:
        """Of each layer: class (a weighted mean), l1 and giou (sums over the matched pairs)."""
        guess = guesses.boxes.gather(1, match.query[..., None].expand(-1, -1, 4))
        wanted = targets.boxes.gather(1, match.truth[..., None].expand(-1, -1, 4)).to(guess.dtype)
        _, giou = iou_and_giou(cxcywh_to_xyxy(guess), cxcywh_to_xyxy(wanted))
        pair = match.valid.to(guess.dtype)
        of_pairs = ((guess - wanted).abs().sum(-1) * pair, (1 - giou) * pair)
        l1, giou_loss = (x.unflatten(1, (layers, -1)).sum((0, 2)) for x in of_pairs)
        queries, nothing = guesses.boxes.shape[1], guesses.logits.shape[-1] - 1
        labels = match.at_queries(targets.labels.gather(1, match.truth), queries, fill=nothing)
        of_layers = (x.split(queries // layers, 1) for x in (guesses.logits, labels))
        entropies = [self._cross_entropy(*layer) for layer in zip(*of_layers, strict=True)]
        return {"class": torch.stack(entropies), "l1": l1, "giou": giou_loss}

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
