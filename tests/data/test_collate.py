from __future__ import annotations

import pickle
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.data import dataset
from detr_mini.data.collate import collate
from detr_mini.structures import Captions, Target


def target(image_id: int, count: int = 2) -> Target:
    return Target(
        boxes=torch.rand(count, 4),
        labels=torch.arange(count),
        image_id=image_id,
        original_size=(10, 20),
        is_crowd=torch.zeros(count, dtype=torch.bool),
        area=torch.rand(count),
    )


sizes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4)


@given(sizes, st.sampled_from([1, 4, 32]))
def test_images_are_padded_right_and_below_to_a_multiple_of_the_stride(
    sizes: list[tuple[int, int]], stride: int
) -> None:
    images = [torch.rand(3, h, w) + 1 for h, w in sizes]
    batch = collate(images, [target(i) for i in range(len(images))], stride)
    height, width = batch.images.shape[2:]
    assert height % stride == width % stride == 0
    assert height - max(h for h, _ in sizes) < stride
    assert width - max(w for _, w in sizes) < stride
    for row, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
        torch.testing.assert_close(batch.images[row, :, :h, :w], image, rtol=0, atol=0)
        assert not batch.padding_mask[row, :h, :w].any()
        assert int((~batch.padding_mask[row]).sum()) == h * w
        assert (batch.images[row][:, batch.padding_mask[row]] == 0).all()
    assert batch.has_padding == bool(batch.padding_mask.any())


def test_a_batch_without_any_box_is_whole() -> None:
    batch = collate([torch.rand(3, 8, 8)] * 2, [target(1, 0), target(2, 0)])
    assert batch.packed.counts == (0, 0)
    assert batch.packed.labels.dtype == torch.long
    assert batch.mask() is None


def test_targets_travel_between_processes_as_bytes() -> None:
    before = target(3)
    after = pickle.loads(bytes(ForkingPickler.dumps(before)))
    assert (after.image_id, after.original_size) == (3, (10, 20))
    for name in ("boxes", "labels", "is_crowd", "area"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=0, atol=0)
    assert not after.boxes.is_shared()


def test_a_worker_moves_only_what_travels_in_shared_memory_there(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    monkeypatch.setattr(torch.Tensor, "share_memory_", lambda tensor: moved.append(tensor.ndim))
    monkeypatch.setattr(dataset, "get_worker_info", lambda: "a worker")
    batch = collate([torch.rand(3, 8, 8)] * 4, [target(k) for k in range(4)])
    assert dataset._unless_broken([0], lambda samples: batch) is batch
    assert moved == [4, 3], "the images and their padding mask"
    ids = torch.zeros(2, 3, dtype=torch.long)
    captions = Captions(ids, ids == 1, torch.arange(2), ((), ()))
    dataset._unless_broken([0], lambda samples: replace(batch, captions=captions))
    assert moved[2:] == [4, 3, 2, 2, 1], "and of captions their tokens, padding and images"
