"""Smaller images early in a training: their own pixels only, boxes and masks that fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detr_mini.data.collate import collate
from detr_mini.losses.criterion import Losses
from detr_mini.models.queries import visible_size
from detr_mini.structures import Batch, Target
from detr_mini.training.build import build
from detr_mini.training.image_growth import resized
from tests.training_parts import small_config

STRIDE = 8


def batch_of(images: list[torch.Tensor]) -> Batch:
    box = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    targets = [
        Target(box, torch.zeros(1).long(), i, (9, 9), torch.zeros(1, dtype=torch.bool), torch.ones(1))
        for i, _ in enumerate(images)
    ]
    return collate(images, targets, STRIDE)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=3), st.floats(0.1, 1))
@example([(1, 1), (60, 60)], 0.5)
def test_an_image_of_one_colour_keeps_it_up_to_its_own_edge(sizes: list[tuple[int, int]], scale: float) -> None:
    batch = batch_of([torch.full((3, *size), 0.7) for size in sizes])
    small = resized(batch, scale, STRIDE)
    height, width = small.images.shape[-2:]
    assert height % STRIDE == width % STRIDE == 0
    visible = visible_size(small.images, small.mask())
    assert (visible >= 1).all()
    for image, (w, h) in zip(small.images, visible.long().tolist(), strict=True):
        torch.testing.assert_close(image[:, :h, :w], torch.full((3, h, w), 0.7), rtol=0, atol=1e-5)
        assert not image[:, h:].any()
        assert not image[:, :, w:].any()


def test_images_without_padding_stay_without_it_and_boxes_stay() -> None:
    small = resized(batch_of([torch.randn(3, 64, 32)] * 2), 0.75, STRIDE)
    assert small.images.shape == (2, 3, 48, 24)
    assert small.padding_mask.shape == (2, 48, 24)
    assert small.mask() is None
    assert small.packed.boxes.tolist() == [[[0.5, 0.5, 0.5, 0.5]]] * 2


def test_channels_last_images_stay_so() -> None:
    batch = batch_of([torch.randn(3, 64, 64)] * 2)
    fast = batch.images.contiguous(memory_format=torch.channels_last)
    small = resized(Batch(fast, batch.padding_mask, batch.targets, batch.packed, False), 0.5, STRIDE)
    assert small.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("step", "side"), [(0, 32), (4, 32), (5, 64), (9, 64)])
def test_images_are_small_up_to_their_share_of_the_training(
    scenes_root: Path, step: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(scenes_root, "trainer.max_steps=10", "trainer.coarse_scale=0.5", "trainer.coarse_until=0.5")
    task = build(config).task
    sides: list[int] = []

    def losses(batch: Batch, _: int) -> Losses:
        sides.append(batch.images.shape[-1])
        return Losses(torch.zeros(()), {}, 1)

    monkeypatch.setattr(type(task), "global_step", step)
    monkeypatch.setattr(task, "losses", losses)
    task.training_step(batch_of([torch.randn(3, 64, 64)]), 0)
    assert sides == [side]
