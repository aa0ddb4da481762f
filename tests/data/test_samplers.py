from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.data.samplers import EvaluationBatches, TrainBatches
from detr_mini.errors import DataError

images, batch_sizes, worlds = st.integers(4, 60), st.integers(1, 20), st.integers(1, 4)


def epoch_of(batches: TrainBatches, epoch: int) -> list[list[int]]:
    batches.set_epoch(epoch)
    keys = list(batches)
    assert all(e == epoch for batch in keys for _, e, *_ in batch)
    return [[index for index, *_ in batch] for batch in keys]


@given(images, batch_sizes, worlds)
def test_ranks_share_an_epoch_without_repeating_an_image(images: int, batch_size: int, world: int) -> None:
    ranks = [TrainBatches(images, batch_size, seed=1, rank=r, world=world) for r in range(world)]
    epochs = [epoch_of(rank, 3) for rank in ranks]
    flat = [index for epoch in epochs for batch in epoch for index in batch]
    assert len(set(flat)) == len(flat)
    assert len({len(epoch) for epoch in epochs}) == 1
    assert all(len(rank) == len(epoch) for rank, epoch in zip(ranks, epochs, strict=True))
    assert len({len(batch) for epoch in epochs for batch in epoch}) == 1
    assert images - len(flat) < world * batch_size


@given(images, batch_sizes, st.integers(0, 5), st.integers(0, 5))
def test_a_resumed_epoch_is_the_rest_of_the_whole_one(images: int, batch_size: int, epoch: int, start: int) -> None:
    whole = epoch_of(TrainBatches(images, batch_size, seed=1), epoch)
    resumed = TrainBatches(images, batch_size, seed=1)
    resumed.resume_at(epoch, start)
    assert epoch_of(resumed, epoch) == whole[start:]
    assert len(resumed) == len(whole)
    assert epoch_of(resumed, epoch + 1) == epoch_of(TrainBatches(images, batch_size, seed=1), epoch + 1)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    batches = TrainBatches(50, 5, seed=1)
    assert epoch_of(batches, 2) == epoch_of(TrainBatches(50, 5, seed=1), 2)
    assert epoch_of(batches, 2) != epoch_of(batches, 3)
    assert epoch_of(batches, 2) != epoch_of(TrainBatches(50, 5, seed=2), 2)


def test_what_is_left_out_changes_with_the_epoch() -> None:
    batches = TrainBatches(10, 4, seed=0)
    seen = [{i for batch in epoch_of(batches, epoch) for i in batch} for epoch in range(8)]
    assert set.union(*seen) == set(range(10))


def test_two_ranks_make_the_batch_of_one() -> None:
    one = epoch_of(TrainBatches(64, 8, seed=0), 1)
    two = [epoch_of(TrainBatches(64, 4, seed=0, rank=r, world=2), 1) for r in range(2)]
    assert [set(batch) for batch in one] == [set(a) | set(b) for a, b in zip(*two, strict=True)]


def sizes_of(images: int) -> torch.Tensor:
    """A third each upright, lying and square, by turns."""
    return torch.tensor([(640.0, 480.0), (480.0, 640.0), (512.0, 512.0)]).repeat(-(-images // 3), 1)[:images]


@given(images, batch_sizes, worlds, st.integers(0, 5))
def test_shapes_change_neither_the_images_of_an_epoch_nor_what_ranks_share(
    images: int, batch_size: int, world: int, epoch: int
) -> None:
    epochs = []
    for sizes in (None, sizes_of(images)):
        ranks = [TrainBatches(images, batch_size, seed=1, rank=r, world=world, sizes=sizes) for r in range(world)]
        epochs.append([epoch_of(rank, epoch) for rank in ranks])
    plain, shaped = ([index for own in ranks for batch in own for index in batch] for ranks in epochs)
    assert sorted(plain) == sorted(shaped)
    assert [[len(batch) for batch in own] for own in epochs[0]] == [[len(batch) for batch in own] for own in epochs[1]]


def test_images_of_like_shape_come_into_one_batch() -> None:
    sizes = sizes_of(600)
    batches = epoch_of(TrainBatches(600, 8, seed=0, sizes=sizes), 1)
    mixed = [batch for batch in batches if len({tuple(sizes[i].tolist()) for i in batch}) > 1]
    assert len(batches) == 75
    assert len(mixed) <= 10  # two borders in each of five windows
    plain = epoch_of(TrainBatches(600, 8, seed=0), 1)
    assert sum(len({tuple(sizes[i].tolist()) for i in batch}) > 1 for batch in plain) > 60


def test_batches_of_one_shape_come_in_random_order_with_random_images() -> None:
    sizes = sizes_of(96)
    shaped = TrainBatches(96, 8, seed=0, sizes=sizes)
    kinds = ["".join("ulS"[i % 3] for i in batch) for batch in epoch_of(shaped, 0)]
    assert kinds != sorted(kinds, key=lambda kind: "luS".index(kind[0]))
    assert {frozenset(batch) for batch in epoch_of(shaped, 0)}.isdisjoint(map(frozenset, epoch_of(shaped, 1)))


def test_two_ranks_make_the_batch_of_one_also_by_shape() -> None:
    sizes = sizes_of(64)
    one = epoch_of(TrainBatches(64, 8, seed=0, sizes=sizes), 1)
    two = [epoch_of(TrainBatches(64, 4, seed=0, rank=r, world=2, sizes=sizes), 1) for r in range(2)]
    assert [set(batch) for batch in one] == [set(a) | set(b) for a, b in zip(*two, strict=True)]


def test_a_resumed_epoch_by_shape_is_the_rest_of_the_whole_one() -> None:
    sizes = sizes_of(50)
    resumed = TrainBatches(50, 4, seed=1, sizes=sizes)
    resumed.resume_at(2, 5)
    assert epoch_of(resumed, 2) == epoch_of(TrainBatches(50, 4, seed=1, sizes=sizes), 2)[5:]


def test_images_of_one_shape_keep_the_order_of_before() -> None:
    sizes = torch.tensor([[480.0, 640.0], [300.0, 400.0]]).repeat(25, 1)
    assert epoch_of(TrainBatches(50, 5, seed=1, sizes=sizes), 2) == epoch_of(TrainBatches(50, 5, seed=1), 2)


def test_fewer_images_than_a_batch_make_one_batch() -> None:
    assert [sorted(batch) for batch in epoch_of(TrainBatches(3, 16, seed=0), 0)] == [[0, 1, 2]]


def test_fewer_images_than_processes_are_refused() -> None:
    with pytest.raises(DataError, match="cannot be shared by 4 processes"):
        TrainBatches(3, 1, seed=0, world=4)
    with pytest.raises(DataError, match="3 evaluation images cannot be shared by 4 processes; use fewer processes"):
        EvaluationBatches(range(3), 1, world=4)


@given(images, batch_sizes, worlds)
def test_evaluation_sees_every_image_once(images: int, batch_size: int, world: int) -> None:
    ranks = [EvaluationBatches(range(images), batch_size, rank=r, world=world) for r in range(world)]
    keys = [list(rank) for rank in ranks]
    assert sorted(index for rank in keys for batch in rank for index, *_ in batch) == list(range(images))
    assert [len(rank) for rank in ranks] == [len(k) for k in keys]
