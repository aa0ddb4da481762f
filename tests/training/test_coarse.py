"""Smaller images early in a training: their own pixels only, boxes and masks that fit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detr_mini.data.collate import collate
from detr_mini.models.queries import visible_size
from detr_mini.structures import Batch, Caption, Captions, Target
from detr_mini.training.coarse import coarsened, fewer_captions
from detr_mini.training.run import build
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
    small = coarsened(batch, scale, STRIDE)
    height, width = small.images.shape[-2:]
    assert height % STRIDE == width % STRIDE == 0
    visible = visible_size(small.images, small.mask())
    assert (visible >= 1).all()
    for image, (w, h) in zip(small.images, visible.long().tolist(), strict=True):
        torch.testing.assert_close(image[:, :h, :w], torch.full((3, h, w), 0.7), rtol=0, atol=1e-5)
        assert not image[:, h:].any()
        assert not image[:, :, w:].any()


def test_images_without_padding_stay_without_it_and_boxes_stay() -> None:
    small = coarsened(batch_of([torch.randn(3, 64, 32)] * 2), 0.75, STRIDE)
    assert small.images.shape == (2, 3, 48, 24)
    assert small.padding_mask.shape == (2, 48, 24)
    assert small.mask() is None
    assert small.packed.boxes.tolist() == [[[0.5, 0.5, 0.5, 0.5]]] * 2


def test_channels_last_images_stay_so() -> None:
    batch = batch_of([torch.randn(3, 64, 64)] * 2)
    fast = batch.images.contiguous(memory_format=torch.channels_last)
    small = coarsened(Batch(fast, batch.padding_mask, batch.targets, batch.packed, False), 0.5, STRIDE)
    assert small.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("step", "side"), [(0, 32), (4, 32), (5, 64), (9, 64)])
def test_images_are_small_up_to_their_share_of_the_training(
    scenes_root: object, step: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(scenes_root, "trainer.max_steps=10", "trainer.coarse_scale=0.5", "trainer.coarse_until=0.5")
    task = build(config).task
    sides: list[int] = []
    monkeypatch.setattr(type(task), "global_step", step)
    monkeypatch.setattr(task, "losses", lambda batch, _: sides.append(batch.images.shape[-1]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        task.training_step(batch_of([torch.randn(3, 64, 64)]), 0)
    assert sides == [side]


def told_of(count: int, images: int) -> Batch:
    """A batch with so many captions, the k-th of which is k in all that is said of it."""
    number = torch.arange(count)
    captions = Captions(
        token_ids=number[:, None],
        padding_mask=torch.zeros(count, 1, dtype=torch.bool),
        caption_image=number % images,
        spans=tuple(((0, k),) for k in range(count)),
        records=tuple(Caption(str(k), "list", ()) for k in range(count)),
        token_map=torch.zeros(count, 2, 1, dtype=torch.bool),
        tags=number[:, None],
        attributes=torch.ones(images, 2, 3, dtype=torch.bool),
    )
    return replace(batch_of([torch.randn(3, 32, 32)] * images), captions=captions)


@given(st.integers(1, 40), st.integers(1, 5), st.floats(0.01, 1.0), st.integers(0, 100))
def test_fewer_captions_stay_whole_and_every_one_has_its_turn(count: int, images: int, share: float, step: int) -> None:
    batch = told_of(count, images)
    seen: set[int] = set()
    for turn in range(step, step + math.ceil(1 / share) + 1):
        few = fewer_captions(batch, share, turn).captions
        assert few is not None
        rows = few.token_ids[:, 0].tolist()
        assert max(1, math.floor(count * share - 1e-9)) <= len(rows) <= math.ceil(count * share + 1e-9)
        assert few.caption_image.tolist() == [row % images for row in rows]
        assert [record.text for record in few.records] == [str(row) for row in rows]
        assert [spans[0][1] for spans in few.spans] == few.tags[:, 0].tolist() == rows
        assert len(few.token_map) == len(few.padding_mask) == len(rows)
        assert few.attributes is batch.captions.attributes
        seen.update(rows)
    assert share < 1 / count or seen == set(range(count))


def test_a_batch_without_captions_has_none_to_leave_out() -> None:
    batch = batch_of([torch.randn(3, 32, 32)])
    assert fewer_captions(batch, 0.1, 3) is batch


@pytest.mark.parametrize(("step", "captions"), [(0, 2), (3, 2), (4, 8)])
def test_captions_are_few_up_to_their_share_of_the_training(
    scenes_root: object, step: int, captions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(
        scenes_root, "trainer.max_steps=10", "trainer.caption_share=0.25", "trainer.caption_share_until=0.4"
    )
    task = build(config).task
    seen: list[int] = []
    monkeypatch.setattr(type(task), "global_step", step)
    monkeypatch.setattr(task, "losses", lambda batch, _: seen.append(len(batch.captions.token_ids)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        task.training_step(told_of(8, 2), 0)
    assert seen == [captions]
