"""The objects that flow."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.errors import DataError
from detr_mini.structures import Batch, Categories, Detections, Target, pack_targets

ids = st.lists(st.integers(-5, 3_000_000), min_size=1, max_size=20, unique=True)


@given(ids, st.randoms())
def test_the_order_in_which_categories_are_listed_means_nothing(numbers: list[int], random: object) -> None:
    pairs = [(i, f"name {i}") for i in numbers]
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = (Categories(tuple(i for i, _ in p), tuple(n for _, n in p)) for p in (pairs, shuffled))
    assert one == other
    assert one.ids == tuple(sorted(numbers))
    for i, name in pairs:
        assert one.names[one.label_of(i)] == name
        assert one.ids[one.labels_of_names()[name]] == i


@given(ids)
def test_categories_survive_a_checkpoint_and_a_json_file(numbers: list[int]) -> None:
    there = Categories(tuple(numbers), tuple(map(str, numbers)))
    assert Categories.from_dict(there.to_dict()) == there
    assert [(r["id"], r["name"]) for r in there.records()] == list(zip(there.ids, there.names, strict=True))


@pytest.mark.parametrize(
    ("numbers", "names", "part"),
    [((1, 1), ("a", "b"), "id 1"), ((1, 2), ("a", "a"), "name 'a'"), ((1,), ("a", "b"), "2 names")],
)
def test_categories_that_stand_twice_are_refused(numbers: tuple, names: tuple, part: str) -> None:
    with pytest.raises(DataError, match=part):
        Categories(numbers, names)


def test_an_unknown_id_is_an_error() -> None:
    with pytest.raises(KeyError):
        Categories((1, 3), ("a", "b")).label_of(2)


CATEGORIES = Categories((4, 7, 9), ("a", "b", "c"))


def detections(n: int) -> Detections:
    generator = torch.Generator().manual_seed(n)
    return Detections(
        torch.rand(n, 4, generator=generator), torch.rand(n, generator=generator), torch.arange(n) % 3, CATEGORIES,
        phrases=tuple(f"phrase {i}" for i in range(n)), image_size=(3, 5),
    )  # fmt: skip


@given(st.integers(0, 12), st.data())
def test_detections_filter_like_an_array(n: int, data: st.DataObject) -> None:
    found = detections(n)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=torch.bool)
    start, stop = data.draw(st.integers(-n - 1, n + 1)), data.draw(st.integers(-n - 1, n + 1))
    picked = data.draw(st.lists(st.integers(0, n - 1), max_size=5)) if n else []
    for index in (mask, slice(start, stop), slice(None, None, 2), torch.tensor(picked, dtype=torch.long), picked):
        part = found[index]
        rows = torch.arange(n)[index]
        assert torch.equal(part.boxes, found.boxes[rows])
        assert torch.equal(part.scores, found.scores[rows])
        assert torch.equal(part.labels, found.labels[rows])
        assert part.phrases == tuple(f"phrase {i}" for i in rows.tolist())
        assert (part.categories, part.image_size) == (CATEGORIES, (3, 5))


def test_one_detection_is_still_detections() -> None:
    assert len(detections(5)[-1]) == 1
    with pytest.raises(IndexError):
        detections(5)[5]


@given(st.integers(0, 12), st.floats(0, 1))
def test_above_keeps_the_scores_of_at_least_the_threshold(n: int, threshold: float) -> None:
    found = detections(n)
    assert found.above(threshold).scores.tolist() == found.scores[found.scores >= threshold].tolist()


def test_names_and_ids_are_those_of_the_data() -> None:
    assert detections(4).names == ("a", "b", "c", "a")
    assert detections(4).category_ids == (4, 7, 9, 4)


def target(n: int, crowd: list[bool] | None = None, image_id: int = 1) -> Target:
    is_crowd = torch.tensor(crowd if crowd is not None else [False] * n, dtype=torch.bool)
    return Target(torch.rand(n, 4), torch.arange(n), image_id, (20, 30), is_crowd, torch.ones(n))


@settings(max_examples=30)
@given(st.lists(st.lists(st.booleans(), max_size=5), min_size=1, max_size=4))
def test_packing_keeps_every_truth_but_crowds(crowds: list[list[bool]]) -> None:
    targets = [target(len(crowd), crowd) for crowd in crowds]
    packed = pack_targets(targets)
    assert packed.counts == tuple(crowd.count(False) for crowd in crowds)
    assert packed.total == int(packed.valid.sum())
    for row, t in enumerate(targets):
        assert torch.equal(packed.boxes[row][packed.valid[row]], t.boxes[~t.is_crowd])
        assert torch.equal(packed.labels[row][packed.valid[row]], t.labels[~t.is_crowd])
    assert packed.labels.dtype == torch.long


def test_a_batch_moves_whole_and_has_a_mask_only_where_something_is_padded() -> None:
    targets = (target(2, image_id=5), target(0, image_id=9))
    for padded in (False, True):
        mask = torch.zeros(2, 8, 8, dtype=torch.bool)
        batch = Batch(torch.zeros(2, 3, 8, 8), mask, targets, pack_targets(targets), padded)
        assert (batch.mask() is not None) == padded
        assert batch.image_ids == (5, 9)
        assert len(batch) == 2
        moved = batch.to("meta")
        assert moved.images.is_meta
        assert moved.targets is batch.targets, "they stay on the host"
        assert moved.packed.boxes.is_meta
        assert not batch.images.is_meta
