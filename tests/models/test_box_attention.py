"""Samples inside a box: the fast form is the plain one, and follows the image."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.models.box_attention import BoxAttention, grid_lines, sample_plain, sample_products


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 1000))
def test_two_matrix_products_are_bilinear_sampling(h: int, w: int, points: int, seed: int) -> None:
    torch.manual_seed(seed)
    features = torch.randn(2, 3, h, w, dtype=torch.float64, requires_grad=True)
    x = torch.rand(2, 5, points, dtype=torch.float64) * (w + 4) - 2  # outside, too
    y = torch.rand(2, 5, points, dtype=torch.float64) * (h + 4) - 2
    fast, plain = sample_products(features, x, y), sample_plain(features, x, y)
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


def test_a_grid_spans_the_box_times_its_spread_centre_and_all() -> None:
    x, y = grid_lines(torch.tensor([[[0.5, 0.25, 0.4, 0.2]]]), 4, 1.5)
    torch.testing.assert_close(x, torch.tensor([[[0.275, 0.425, 0.575, 0.725]]]))
    torch.testing.assert_close(y, torch.tensor([[[0.1375, 0.2125, 0.2875, 0.3625]]]))


def test_a_sample_at_a_cells_centre_is_the_cell_and_rows_come_before_columns() -> None:
    features = torch.arange(12.0).view(1, 1, 3, 4)
    lines = torch.tensor([[[0.5, 2.5]]])
    for form in (sample_products, sample_plain):
        torch.testing.assert_close(form(features, lines, lines)[0, 0, ..., 0], torch.tensor([[0.0, 2.0], [8.0, 10.0]]))


def test_a_query_reads_its_own_box_on_a_map_that_is_no_square() -> None:
    attention = BoxAttention(2, 8, points=3)
    features = torch.randn(1, 2, 8, 16, requires_grad=True)
    box = torch.tensor([[[0.75, 0.25, 0.125, 0.25]]])  # columns 11 to 13, rows 1 to 3; a fifth more is looked at
    attention(box, features, torch.tensor([[16.0, 8.0]])).sum().backward()
    assert features.grad is not None
    read = features.grad[0].abs().sum(0) > 0
    assert read.any(0).nonzero().flatten().tolist() == [10, 11, 12, 13]
    assert read.any(1).nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_padding_moves_no_sample() -> None:
    torch.manual_seed(0)
    attention = BoxAttention(4, 8)
    features, boxes = torch.randn(1, 4, 6, 9), torch.rand(1, 5, 4)
    cells = torch.tensor([[8.5, 6.0]])  # the image ends within its last column of cells
    padded = torch.nn.functional.pad(features, (0, 4, 0, 3))
    torch.testing.assert_close(attention(boxes, padded, cells), attention(boxes, features, cells), rtol=1e-5, atol=1e-5)
