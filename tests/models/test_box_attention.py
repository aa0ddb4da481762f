"""Samples inside a box: the fast form is the plain one, and follows the image."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.models.box_attention import BoxAttention, sample, sample_plain
from detr_mini.models.queries import cell_centres, refine, select
from detr_mini.structures import Prediction


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 1000))
def test_two_matrix_products_are_bilinear_sampling(h: int, w: int, points: int, seed: int) -> None:
    torch.manual_seed(seed)
    features = torch.randn(2, 3, h, w, dtype=torch.float64, requires_grad=True)
    x = torch.rand(2, 5, points, dtype=torch.float64) * (w + 4) - 2  # outside, too
    y = torch.rand(2, 5, points, dtype=torch.float64) * (h + 4) - 2
    fast, plain = sample(features, x, y), sample_plain(features, x, y)
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(fast)
    gradients = [torch.autograd.grad((form * weight).sum(), features)[0] for form in (fast, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_moving_the_image_and_the_box_together_changes_nothing() -> None:
    torch.manual_seed(0)
    attention = BoxAttention(4, 8, points=5)
    features = torch.zeros(1, 4, 16, 16)
    features[:, :, 4:8, 4:8] = torch.randn(1, 4, 4, 4)
    cells = torch.tensor([[16.0, 16.0]])
    box = torch.tensor([[[0.35, 0.4, 0.2, 0.15]]])
    moved = attention(box + torch.tensor([3 / 16, 2 / 16, 0, 0]), features.roll((2, 3), (2, 3)), cells)
    torch.testing.assert_close(moved, attention(box, features, cells), rtol=1e-4, atol=1e-5)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2), st.integers(0, 2))
def test_cells_are_counted_from_the_image_without_its_padding(h: int, w: int, more_h: int, more_w: int) -> None:
    alone = cell_centres((h, w), 8, torch.tensor([[w * 8.0, h * 8.0]])).view(1, h, w, 2)
    padded = cell_centres((h + more_h, w + more_w), 8, torch.tensor([[w * 8.0, h * 8.0]]))
    padded = padded.view(1, h + more_h, w + more_w, 2)
    torch.testing.assert_close(padded[:, :h, :w], alone)
    assert padded.min() > 0
    assert padded.max() <= 1


def test_refining_by_nothing_keeps_the_box_and_its_inverse_undoes_it() -> None:
    boxes = torch.rand(4, 4) + 0.1
    torch.testing.assert_close(refine(boxes, torch.zeros(4, 4)), boxes)
    delta = torch.randn(4, 4) * 0.3
    there = refine(boxes, delta)
    back = torch.cat([-delta[:, :2] / delta[:, 2:].exp(), -delta[:, 2:]], -1)
    torch.testing.assert_close(refine(there, back), boxes, rtol=1e-4, atol=1e-5)


def test_selection_takes_the_best_visible_tokens() -> None:
    logits = torch.tensor([[[0.0], [5.0], [9.0], [3.0]]])
    visible = torch.tensor([[True, True, False, True]])
    features = torch.arange(4.0).view(1, 4, 1)
    chosen, boxes, seen = select(Prediction(logits, torch.rand(1, 4, 4), visible), features, 2)
    assert chosen.flatten().tolist() == [1.0, 3.0]
    assert boxes.shape == (1, 2, 4)
    assert seen is not None
    assert seen.all()
