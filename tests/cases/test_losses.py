"""Public reports about targets, matching and losses (T-03, T-05)."""

from __future__ import annotations

import pytest
import torch

from detr_mini.data.collate import collate
from detr_mini.losses.criterion import DetectionCriterion, matchability_loss
from detr_mini.losses.matcher import focal_cost
from detr_mini.models.heads import sigmoid_detections
from detr_mini.models.mini import MiniDETR
from detr_mini.structures import Batch, Categories, DetectorOutput, Target
from detr_mini.vision.convnet import ConvNet

SIZES = ((60, 80), (60, 40))  # height, width: 800 x 600 and 400 x 600 pixels, scaled down by ten


def mini() -> MiniDETR:
    torch.manual_seed(0)
    return MiniDETR(
        backbone=ConvNet(channels=(4, 8, 16, 32), blocks=(0, 1, 1, 1)), num_classes=1, dim=32, heads=2, feedforward=32,
        queries=8, sample_channels=8,
    )  # fmt: skip


def criterion() -> DetectionCriterion:
    return DetectionCriterion(class_cost=focal_cost, class_loss=matchability_loss, cost_class=2.0, weight_giou=2.0)


def whole_pictures(box: tuple[float, ...] = (0.5, 0.5, 1.0, 1.0)) -> Batch:
    torch.manual_seed(1)
    targets = [
        Target(torch.tensor([box]), torch.zeros(1).long(), k, (h * 10, w * 10), torch.zeros(1).bool(), torch.ones(1))
        for k, (h, w) in enumerate(SIZES)
    ]
    return collate([torch.randn(3, *size) for size in SIZES], targets, 16)


def test_T_03_targets_positions_and_outputs_share_the_canvas_of_the_image_without_its_padding() -> None:
    batch = whole_pictures()
    assert batch.has_padding
    # targets, decoded as a model's outputs are, give the original pixels
    said = DetectorOutput(torch.zeros(2, 1, 1), batch.packed.boxes)
    found = sigmoid_detections(said, [t.original_size for t in batch.targets], Categories((1,), ("page",)))
    assert [d.boxes.tolist() for d in found] == [[[0.0, 0.0, 800.0, 600.0]], [[0.0, 0.0, 400.0, 600.0]]]
    # a new model proposes boxes around each token's own place: token (i, j) stands at pixel (8 j + 4, 8 i + 4)
    proposals = mini().train()(batch.images, batch.mask()).proposals
    assert proposals is not None
    assert proposals.visible is not None
    for row, (h, w) in enumerate(SIZES):
        centres = (proposals.boxes[row, :, :2] * torch.tensor([w, h])).view(8, 10, 2)
        sides = proposals.boxes[row, :, 2:] * torch.tensor([w, h])  # squares of three tokens' width, in pixels
        torch.testing.assert_close(sides, torch.full((80, 2), 24.0), rtol=0, atol=1e-3)
        seen = proposals.visible[row].view(8, 10)
        assert seen.sum() == -(-h // 8) * -(-w // 8)
        for i, j in ((0, 0), (3, 4), (6, 2)):
            torch.testing.assert_close(centres[i, j], torch.tensor([8.0 * j + 4, 8.0 * i + 4]), rtol=0, atol=1e-4)
    # and the losses take a guess that is right in pixels for right
    losses = criterion()(DetectorOutput(torch.full((2, 1, 1), 9.0), batch.packed.boxes), batch.packed)
    assert losses.terms["l1"] == 0
    assert losses.terms["giou"] == pytest.approx(0, abs=1e-6)


def test_T_03_a_model_trained_on_one_image_alone_reads_it_right_beside_another() -> None:
    batch = whole_pictures((0.4, 0.6, 0.5, 0.3))
    alone = collate([batch.images[1, :, :60, :40]], [batch.targets[1]], 16)
    model = mini().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        noised = model.noised_truths(alone.packed, alone.image_ids, seed=0, step=step)
        losses = criterion()(model(alone.images, alone.mask(), denoising=noised), alone.packed)
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        output = model.eval()(batch.images, batch.mask())
    found = model.postprocess(output, [t.original_size for t in batch.targets], Categories((1,), ("page",)))[1][0]
    truth = torch.tensor([[60.0, 270.0, 260.0, 450.0]])  # in pixels of the 400 x 600 picture
    torch.testing.assert_close(found.boxes, truth, rtol=0, atol=12)


def test_T_05_a_batch_of_background_teaches_the_class_alone_and_leaves_the_next_batch_as_it_is() -> None:
    torch.manual_seed(0)
    empty = [
        Target(torch.zeros(0, 4), torch.zeros(0).long(), k, (32, 32), torch.zeros(0).bool(), torch.zeros(0))
        for k in (0, 1)
    ]
    background = collate([torch.randn(3, 32, 32)] * 2, empty, 16)
    assert background.packed.labels.dtype == torch.long
    loss, model = criterion(), mini().train()

    def of(batch: Batch) -> torch.Tensor:
        noised = model.noised_truths(batch.packed, batch.image_ids, seed=0, step=0)
        losses = loss(model(batch.images, batch.mask(), denoising=noised), batch.packed)
        assert losses.boxes == sum(len(t.labels) for t in batch.targets)
        assert (losses.terms["l1"] == 0) == (losses.terms["giou"] == 0) == (losses.boxes == 0)
        return losses.total

    before = of(whole_pictures())
    total = of(background)
    assert total.isfinite()
    assert total > 0
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert not any(head.move[-1].weight.grad.any() for head in (*model.heads, model.propose, model.one_to_many))
    assert all(head.classify.weight.grad.any() for head in (*model.heads, model.propose, model.one_to_many))
    assert torch.equal(of(whole_pictures()), before)
