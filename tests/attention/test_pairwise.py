"""Attention that knows what lies between its elements."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detr_mini.attention.pairwise import PairwiseAttention, barred_where, pair_features


def layer(pair_dim: int = 6) -> PairwiseAttention:
    torch.manual_seed(0)
    made = PairwiseAttention(16, 4, pair_dim).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.5)
    return made


def inputs(c: int = 2, q: int = 3, n: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(c, n, 16, generator=generator, dtype=torch.float64)
    pairs = torch.randn(c, q, n, 6, generator=generator, dtype=torch.float64)
    return x, pairs, torch.zeros(c, n, dtype=torch.bool)


def test_is_its_formula() -> None:
    made = layer()
    x, pairs, blocked = inputs()
    query, key, value = made.in_proj(x).view(2, 7, 3, 4, 4).unbind(2)
    asked = made.pair_query(x[:, :3]).view(2, 3, 4, 6)
    expected = torch.zeros(2, 7, 16, dtype=torch.float64)
    for c in range(2):
        for i in range(7):
            heads, told = [], []
            for h in range(4):
                s = torch.stack([query[c, i, h] @ key[c, j, h] / 2 for j in range(7)])
                if i < 3:
                    s = s + torch.stack([asked[c, i, h] @ pairs[c, i, j] for j in range(7)])
                a = s.softmax(0)
                heads.append(sum(a[j] * value[c, j, h] for j in range(7)))
                told.append(sum(a[j] * pairs[c, i, j] for j in range(7)) if i < 3 else torch.zeros(6).double())
            expected[c, i] = made.out_proj(torch.cat(heads))
            expected[c, i] += made.pair_value(torch.cat(told))
    torch.testing.assert_close(made(x, pairs, barred_where(blocked, x.dtype)), expected)


def test_what_is_barred_might_as_well_not_be_there() -> None:
    made = layer()
    x, pairs, blocked = inputs()
    blocked[:, 5:] = True
    short = made(x[:, :5], pairs[:, :, :5], barred_where(blocked[:, :5], x.dtype))
    torch.testing.assert_close(made(x, pairs, barred_where(blocked, x.dtype))[:, :5], short)


def test_where_everything_is_barred_answers_and_gradients_are_finite() -> None:
    made = layer()
    x, pairs, blocked = inputs()
    answer = made(x.requires_grad_(), pairs, barred_where(~blocked, x.dtype))
    answer.sum().backward()
    assert answer.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="dim 16 is not a multiple of heads 3"):
        PairwiseAttention(16, 3, 4)


def test_pair_features_turn_with_the_pair_and_stay_finite() -> None:
    boxes = torch.tensor([[[0.2, 0.3, 0.1, 0.2], [0.7, 0.3, 0.4, 0.1], [0.2, 0.3, 0.0, 0.0]]])
    features = pair_features(boxes)
    assert features.shape[-1] == 14
    assert features.isfinite().all()
    odd = [0, 1, 2, 3, 9, 10, 11, 12]  # offsets and relative sizes
    torch.testing.assert_close(features[0, 0, 1, odd], -features[0, 1, 0, odd])
    even = [4, 5, 6, 7, 8]
    torch.testing.assert_close(features[0, 0, 1, even], features[0, 1, 0, even])
    assert features[0, 0, 1, 0] == pytest.approx(1.5)  # the second lies to the right of the first
    torch.testing.assert_close(features[0, :, :, 13], nn.functional.one_hot(torch.arange(3)).float())
