"""Detections of a whole loader."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detr_mini.inference.batches import detect_batches
from detr_mini.models.heads import sigmoid_detections
from detr_mini.models.protocol import ModelDefaults
from detr_mini.structures import Batch, Categories, Detections, DetectorOutput, Target, pack_targets

CATEGORIES = Categories((3, 4), ("a", "b"))


class Fake(ModelDefaults, nn.Module):
    """Its boxes follow the image's mean, so results can be told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(3).eval()

    def forward(self, images: Tensor, padding_mask: Tensor | None = None) -> DetectorOutput:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        level = images.mean((1, 2, 3))
        logits = self.dropout(torch.stack([level, -level], -1))[:, None].expand(-1, 3, -1)
        return DetectorOutput(logits, torch.full((len(images), 3, 4), 0.5))

    def postprocess(
        self, output: DetectorOutput, sizes: list[tuple[int, int]], categories: Categories, limit: int
    ) -> list[Detections]:
        return sigmoid_detections(output, sizes, categories, limit)


def batch(ids: list[int]) -> Batch:
    none = torch.zeros(0)
    targets = tuple(
        Target(torch.zeros(0, 4), none.long(), i, (10 * i, 20 * i), is_crowd=none.bool(), area=none) for i in ids
    )
    images = torch.stack([torch.full((3, 8, 8), float(i)) for i in ids])
    return Batch(images, torch.zeros(len(ids), 8, 8, dtype=torch.bool), targets, pack_targets(targets), False)


@pytest.mark.parametrize("progress", [True, False])
def test_every_image_has_its_own_detections_whatever_the_batches(progress: bool) -> None:
    model = Fake()
    whole = detect_batches(model, [batch([1, 2, 3])], CATEGORIES, progress=progress)
    parts = detect_batches(model, iter([batch([3]), batch([1, 2])]), CATEGORIES, limit=2, progress=progress)
    assert set(whole) == set(parts) == {1, 2, 3}
    for image_id, detections in parts.items():
        assert len(detections) == 2
        assert detections.image_size == (10 * image_id, 20 * image_id)
        assert torch.equal(detections.scores, whole[image_id].scores[:2])


def test_the_model_is_left_as_it_was() -> None:
    model = Fake().train()
    model.frozen.eval()
    detect_batches(model, [batch([1])], CATEGORIES, progress=False)
    assert model.training
    assert model.dropout.training
    assert not model.frozen.training
