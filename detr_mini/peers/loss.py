"""The loss of a detector of another library, as sums over the truths of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from detr_mini.losses.criterion import Losses
from detr_mini.losses.matcher import NonFiniteCostError
from detr_mini.structures import DetectorOutput, PackedTargets, PeerLoss

CLASS_LOSSES = ("loss_ce", "loss_vfl", "loss_mal")
"""What `transformers` calls them."""


class PeerCriterion:
    """The library's own loss, times the boxes it was divided by.

    The library divides by the boxes of a batch (by 1 where there are none): what comes back here is the sum, which the
    task divides by the boxes of the whole window. In a window of one batch that is the library's own number.
    """

    def __call__(self, output: DetectorOutput, targets: PackedTargets, progress: float = 0.0) -> Losses:
        """NonFiniteCostError where a guess is not finite: the library would match it all the same, or break."""
        total = output.boxes.new_zeros(())
        terms = dict.fromkeys(("class", "l1", "giou"), total)
        for part in output.peer:
            boxes = max(1, sum(targets.counts[row] for row in part.rows))
            loss, parts = _loss(part, targets)
            total = total + boxes * loss
            for name, said in _terms(parts, part.inputs[4]).items():
                terms[name] = terms[name] + boxes * said
        return Losses(total, terms, targets.total)


def _loss(part: PeerLoss, targets: PackedTargets) -> tuple[Tensor, dict[str, Tensor]]:
    """The library's loss of some images of a batch, in float32, and its parts by the library's names."""
    logits, _, device, boxes, config, *more = _float32(part.inputs)
    bad = ~(logits.isfinite().all(-1) & boxes.isfinite().all(-1)).all(1)
    if bool(bad.any()):
        raise NonFiniteCostError([part.rows[i] for i in bad.nonzero()[:, 0].tolist()], [0])
    truths = [targets.of(row) for row in part.rows]
    labels = [{"class_labels": labels, "boxes": its} for its, labels in truths]
    with _alone():
        loss, parts, _ = part.loss(logits, labels, device, boxes, config, *more, **_float32(part.named))
    return loss, parts


def _terms(parts: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The unweighted parts of the final layer, detached. Some of the library's losses come weighted, some do not."""
    found = next(name for name in CLASS_LOSSES if name in parts)
    names = {"class": found, "l1": "loss_bbox", "giou": "loss_giou"}
    return {ours: parts[its].detach() / (getattr(config, f"weight_{its}", 1.0) or 1.0) for ours, its in names.items()}


def _float32(value: Any) -> Any:
    """`value` with every tensor of real numbers in it as float32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_float32(item) for item in value)
    if isinstance(value, dict):
        return {key: _float32(item) for key, item in value.items()}
    return value


@contextmanager
def _alone() -> Iterator[None]:
    """Within it, the library's losses count the boxes of this process only.

    LW-DETR's asks the other processes otherwise, which would count them twice, and hang where one has no batch left.
    """
    if not torch.distributed.is_initialized():
        yield
        return
    with patch.object(import_module("transformers.loss.loss_lw_detr"), "_is_torch_distributed_initialized", bool):
        yield
