"""What lies between pairs: turns with the pair, counts by sums, and is finite for boxes without size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detr_mini.attention.pairwise import FEATURES, likeness, pair_features


def test_pair_features_turn_with_the_pair_and_stay_finite() -> None:
    boxes = torch.tensor([[[0.2, 0.3, 0.1, 0.2], [0.7, 0.3, 0.4, 0.1], [0.2, 0.3, 0.0, 0.0]]])
    features = pair_features(boxes)
    assert features.shape[-1] == FEATURES
    assert features.isfinite().all()
    odd = [0, 1, 2, 3, 4, 5, 11, 12, 13, 14, 15]  # offsets and relative sizes
    torch.testing.assert_close(features[0, 0, 1, odd], -features[0, 1, 0, odd])
    even = [6, 7, 8, 9, 10]
    torch.testing.assert_close(features[0, 0, 1, even], features[0, 1, 0, even])
    assert features[0, 0, 1, 0] == pytest.approx(1.5)  # the second lies to the right of the first
    torch.testing.assert_close(features[0, :, :, 16], nn.functional.one_hot(torch.arange(3)).float())


def test_the_sum_of_the_steepest_offsets_is_the_place_in_the_row() -> None:
    x = torch.tensor([0.9, 0.1, 0.5, 0.3, 0.7])
    boxes = torch.stack([x, torch.full((5,), 0.5), torch.full((5,), 0.1), torch.full((5,), 0.1)], -1)[None]
    to_the_right_less_to_the_left = pair_features(boxes)[0, :, :, 4].sum(1)
    torch.testing.assert_close((4 - to_the_right_less_to_the_left) / 2, x.argsort().argsort().float(), atol=0.1, rtol=0)


def test_likeness_is_the_cosine_in_each_respect_whatever_the_lengths() -> None:
    looks = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    alike = likeness(looks)
    expected = nn.functional.cosine_similarity(looks[:, :, None], looks[:, None], dim=-1)
    torch.testing.assert_close(alike, expected)
    torch.testing.assert_close(likeness(7 * looks), alike)
    torch.testing.assert_close(alike.diagonal(dim1=1, dim2=2), torch.ones(2, 3, 4))
