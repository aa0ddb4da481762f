"""Which pictures are chosen to be labelled next, and why."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.labelling import choose as choose_module
from detr_mini.labelling.choose import _nearest, choose, entropies, k_centres, uncertainty
from detr_mini.labelling.features import directions
from detr_mini.structures import Categories, Detections

CATEGORIES = Categories((1, 2), ("bolt", "nut"))


def found(*scores: float) -> Detections:
    count = len(scores)
    boxes = torch.tensor([[0.0, 0, 5, 5]]).expand(count, 4)
    return Detections(boxes, torch.tensor(scores), torch.zeros(count).long(), CATEGORIES, image_size=(10, 10))


def spread(count: int, dim: int = 6, seed: int = 0) -> torch.Tensor:
    return directions(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))[0]


@given(st.floats(0.05, 0.95))
def test_a_detection_is_least_sure_at_the_threshold_and_sure_at_both_ends(threshold: float) -> None:
    scores = torch.tensor([0.0, threshold / 2, threshold, (1 + threshold) / 2, 1.0])
    bits = entropies(scores, threshold)
    assert bits[2] == pytest.approx(1, abs=1e-4)
    assert bits.argmax() == 2 and bits[0] < 1e-4 and bits[4] < 1e-4


def test_more_doubtful_boxes_are_more_uncertainty_and_faint_ones_are_none() -> None:
    assert uncertainty(found(), 0.4) == 0 == uncertainty(found(0.05, 0.01), 0.4)
    assert uncertainty(found(0.4, 0.4), 0.4) > uncertainty(found(0.4), 0.4) > uncertainty(found(0.99), 0.4)


def test_the_least_sure_pictures_are_chosen_of_pictures_that_are_equally_far() -> None:
    every = [found(0.99), found(0.4, 0.41, 0.39), found(0.98), found(0.4), found(0.97), found(0.96), found(0.95)]
    features = torch.eye(7)
    picked = choose(every, features, torch.zeros(0, 7), 1, 0.4)
    assert [choice.place for choice in picked] == [1]
    assert "unsure of 3 boxes (bolt 0.40, bolt 0.41, bolt 0.39)" in picked[0].reason


def test_chosen_pictures_are_unlike_each_other_and_unlike_the_training_set() -> None:
    a, b, c = torch.eye(3)
    every = [found(0.4)] * 6
    features = torch.stack([a, a, b, b, c, c])
    picked = choose(every, features, a[None], 2, 0.4)
    assert [choice.place for choice in picked] == [2, 4]
    assert picked[0].distance == pytest.approx(1)
    assert "farther from the training pictures than 33%" in picked[0].reason


def test_the_same_pictures_give_the_same_choice_and_no_picture_is_chosen_twice() -> None:
    every = [found(*(torch.rand(3, generator=torch.Generator().manual_seed(k)).tolist())) for k in range(40)]
    one, two = (choose(every, spread(40), spread(5, seed=1), 12, 0.5) for _ in range(2))
    assert one == two
    assert len({choice.place for choice in one}) == 12
    assert all(choice.reason for choice in one)


def test_the_nearest_of_many_is_found_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    features, centres = (torch.nn.functional.normalize(torch.randn(n, 5), dim=1) for n in (23, 7))
    whole = _nearest(features, centres)
    monkeypatch.setattr(choose_module, "ROWS", 4)
    torch.testing.assert_close(_nearest(features, centres), whole)
    torch.testing.assert_close(whole, 1 - (features @ centres.T).amax(1))


def test_fewer_pictures_than_wanted_are_all_chosen() -> None:
    assert len(choose([found(0.4)] * 3, spread(3), torch.zeros(0, 6), 50, 0.5)) == 3


def test_k_centres_covers_within_twice_the_best_radius() -> None:
    points = spread(9, dim=3, seed=3)
    picked, _ = k_centres(points, None, 3)
    away = (points[:, None] - points[None]).norm(dim=-1)
    best = min(
        float(away[:, list(chosen)].min(1).values.max()) for chosen in torch.combinations(torch.arange(9), 3).tolist()
    )
    assert float(away[:, picked].min(1).values.max()) <= 2 * best + 1e-6
