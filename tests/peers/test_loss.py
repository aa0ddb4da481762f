"""The losses of peers: sums over boxes, whatever the batch, and no guess that is not finite goes unsaid."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers", "5.24", "transformers 5.24 is not installed: pip install 'detr-mini[hf]'")

from detr_mini.losses.matcher import NonFiniteCostError
from detr_mini.peers.loss import PeerCriterion
from peer_parts import peer, truths


@pytest.mark.parametrize("kind", ["rt_detr_v2", "lw_detr", "deformable_detr"])
@torch.no_grad()
def test_the_loss_of_a_batch_is_the_sum_of_its_images(kind: str) -> None:
    model, criterion = peer(kind).eval(), PeerCriterion()
    images, whole = torch.randn(3, 3, 128, 128), truths([2, 1, 3])
    together = criterion(model(images), whole)
    alone = 0.0
    for row in range(3):
        boxes, labels = whole.of(row)
        one = replace(whole, boxes=boxes[None], labels=labels[None], valid=torch.ones(1, len(labels), dtype=torch.bool),
                      counts=(len(labels),))  # fmt: skip
        alone += float(criterion(model(images[row : row + 1]), one).total)
    assert float(together.total) == pytest.approx(alone, rel=1e-4)
    assert together.boxes == 6


@pytest.mark.parametrize("kind", ["detr", "rt_detr_v2", "d_fine", "deimv2", "lw_detr"])
def test_a_batch_without_boxes_teaches_that_nothing_is_there(kind: str) -> None:
    model = peer(kind).train()
    none = truths([0, 0])
    images = torch.randn(2, 3, model.stride * 2, model.stride * 2)
    losses = PeerCriterion()(model(images, denoising=model.noised_truths(none, (1, 2), seed=0, step=0)), none)
    losses.total.backward()
    assert losses.boxes == 0
    assert float(losses.total.detach()) > 0
    assert float(losses.terms["l1"]) == 0
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_the_parts_that_are_logged_are_unweighted_sums() -> None:
    model, targets = peer("rt_detr_v2").eval(), truths([2, 3])
    with torch.no_grad():
        output = model(torch.randn(2, 3, 64, 64))
        losses = PeerCriterion()(output, targets)
        (part,) = output.peer
        labels = [{"class_labels": labels, "boxes": boxes} for boxes, labels in map(targets.of, range(2))]
        _, said, _ = part.loss(part.inputs[0], labels, *part.inputs[2:], **part.named)
    assert float(losses.terms["l1"]) == pytest.approx(5 * float(said["loss_bbox"]) / 5.0, rel=1e-5)
    assert float(losses.terms["giou"]) == pytest.approx(5 * float(said["loss_giou"]) / 2.0, rel=1e-5)


def test_a_guess_that_is_not_finite_names_its_image() -> None:
    model, targets = peer("detr").eval(), truths([2, 3])
    images = torch.randn(2, 3, 64, 64)
    images[1] = torch.nan
    with pytest.raises(NonFiniteCostError, match=r"images \[1\]"):
        PeerCriterion()(model(images), targets)
