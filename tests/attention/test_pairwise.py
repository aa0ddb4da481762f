"""Features of pairs: symmetric, finite, and countable by sums."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detr_mini.attention.pairwise import FEATURES, likeness, pair_features


def test_pair_features_change_sign_with_the_order_of_the_pair_and_stay_finite() -> None:
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


def test_the_sum_of_the_steepest_offsets_counts_the_boxes_to_the_left() -> None:
    x = torch.tensor([0.9, 0.1, 0.5, 0.3, 0.7])
    boxes = torch.stack([x, torch.full((5,), 0.5), torch.full((5,), 0.1), torch.full((5,), 0.1)], -1)[None]
    to_the_right_less_to_the_left = pair_features(boxes)[0, :, :, 4].sum(1)
    torch.testing.assert_close((4 - to_the_right_less_to_the_left) / 2, x.argsort().argsort().float(), atol=0.1, rtol=0)


def test_likeness_is_the_cosine_in_each_aspect_for_vectors_of_any_length() -> None:
    vectors = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    cosines = likeness(vectors)
    expected = nn.functional.cosine_similarity(vectors[:, :, None], vectors[:, None], dim=-1)
    torch.testing.assert_close(cosines, expected)
    torch.testing.assert_close(likeness(7 * vectors), cosines)
    torch.testing.assert_close(cosines.diagonal(dim1=1, dim2=2), torch.ones(2, 3, 4))
