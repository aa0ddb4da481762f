"""Positions: the published values, and no effect of padding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.attention.positions import (
    DistanceBias,
    LearnedPositions1d,
    LearnedPositions2d,
    rotate,
    rotate_2d,
    sine_box_code,
    sine_code,
    sine_positions_1d,
    sine_positions_2d,
)

QUICK = settings(deadline=None, max_examples=40)
SIZES = st.integers(1, 12)


@QUICK
@given(SIZES, SIZES, st.integers(0, 9), st.integers(0, 9))
def test_a_padded_image_has_the_positions_of_the_image_alone(h: int, w: int, below: int, right: int) -> None:
    mask = torch.ones(2, h + below, w + right, dtype=torch.bool)
    mask[:, :h, :w] = False
    mask[1] = False
    alone = sine_positions_2d(torch.zeros(1, h, w, dtype=torch.bool), 16)
    torch.testing.assert_close(sine_positions_2d(mask, 16)[0, :h, :w], alone[0], rtol=0, atol=1e-6)


def published_positions(padding_mask: torch.Tensor, features: int) -> torch.Tensor:
    """The original DETR's PositionEmbeddingSine, with its loops and its layout (b, 2 features, h, w)."""
    b, h, w = padding_mask.shape
    out = torch.zeros(b, 2 * features, h, w)
    visible = (~padding_mask).float()
    for part, axis in enumerate((1, 2)):
        count = visible.cumsum(axis)
        last = count[:, -1:, :] if axis == 1 else count[:, :, -1:]
        place = count / (last + 1e-6) * 2 * math.pi
        for i in range(features):
            angle = place / 10000 ** (2 * (i // 2) / features)
            out[:, part * features + i] = angle.sin() if i % 2 == 0 else angle.cos()
    return out


def test_positions_equal_the_published_ones() -> None:
    mask = torch.zeros(2, 5, 7, dtype=torch.bool)
    mask[1, 3:], mask[1, :, 4:] = True, True
    ours = sine_positions_2d(mask, 32).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours, published_positions(mask, 16), rtol=0, atol=1e-5)


@QUICK
@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(-50, 50))
def test_the_similarity_of_two_codes_depends_on_their_distance_only(a: float, b: float, shift: float) -> None:
    codes = sine_code(torch.tensor([a, b, a + shift, b + shift], dtype=torch.float64), 32)
    torch.testing.assert_close(codes[0] @ codes[1], codes[2] @ codes[3], rtol=0, atol=1e-4)
    torch.testing.assert_close(codes[0] @ codes[0], codes.new_tensor(16.0), rtol=0, atol=1e-6)


def test_sine_and_cosine_alternate() -> None:
    code = sine_code(torch.tensor([0.0, 2.0]), 4, temperature=100.0)
    expected = [[0, 1, 0, 1], [math.sin(2), math.cos(2), math.sin(0.2), math.cos(0.2)]]
    torch.testing.assert_close(code, torch.tensor(expected))


def test_a_box_code_joins_the_codes_of_its_four_numbers() -> None:
    boxes = torch.rand(2, 3, 4)
    code = sine_box_code(boxes, 32)
    assert code.shape == (2, 3, 32)
    torch.testing.assert_close(code[..., 8:16], sine_code(boxes[..., 1] * 2 * math.pi, 8, temperature=20.0))


@QUICK
@given(SIZES, st.integers(0, 9))
def test_a_padded_sentence_has_the_positions_of_the_sentence_alone(n: int, more: int) -> None:
    mask = torch.arange(n + more)[None] >= n
    codes = sine_positions_1d(mask, 8)
    torch.testing.assert_close(codes[0, :n], sine_code(torch.arange(n).float(), 8))


def test_learned_positions_differ_and_too_long_an_input_is_refused() -> None:
    torch.manual_seed(0)
    line, plane = LearnedPositions1d(5, 8), LearnedPositions2d(4, 8)
    assert line(3).shape == (3, 8)
    cells = plane(3, 4)
    assert cells.shape == (3, 4, 8)
    assert len(cells.detach().flatten(0, 1).unique(dim=0)) == 12
    torch.testing.assert_close(cells[1, 2], torch.cat([plane.rows(2)[1], plane.columns(3)[2]]))
    with pytest.raises(ValueError, match="6 elements are more than the 5 learned positions"):
        line(6)
    with pytest.raises(ValueError, match="5 elements are more than the 4 learned positions"):
        plane(3, 5)


@QUICK
@given(st.integers(0, 2**31), st.floats(-20, 20))
def test_products_of_rotated_vectors_depend_on_the_distance_only(seed: int, shift: float) -> None:
    g = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 6, 8, generator=g, dtype=torch.float64)
    a, b = torch.rand(2, 6, generator=g, dtype=torch.float64) * 10
    torch.testing.assert_close(
        (rotate(q, a) * rotate(k, b)).sum(-1), (rotate(q, a + shift) * rotate(k, b + shift)).sum(-1)
    )
    torch.testing.assert_close(rotate(q, a).norm(dim=-1), q.norm(dim=-1))
    torch.testing.assert_close(rotate(q, torch.zeros(6)), q)


@QUICK
@given(st.integers(0, 2**31), st.floats(-9, 9), st.floats(-9, 9))
def test_products_of_vectors_rotated_in_2d_depend_on_the_offset_only(seed: int, right: float, down: float) -> None:
    g = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 6, 8, generator=g, dtype=torch.float64)
    a, b = torch.rand(2, 6, 2, generator=g, dtype=torch.float64) * 10
    shift = torch.tensor([right, down], dtype=torch.float64)
    torch.testing.assert_close(
        (rotate_2d(q, a) * rotate_2d(k, b)).sum(-1), (rotate_2d(q, a + shift) * rotate_2d(k, b + shift)).sum(-1)
    )


def test_one_pair_of_channels_is_rotated_by_the_coordinate() -> None:
    turned = rotate(torch.tensor([1.0, 0.0]), torch.tensor(0.3))
    torch.testing.assert_close(turned, torch.tensor([math.cos(0.3), math.sin(0.3)]))


def test_a_number_of_channels_that_cannot_be_rotated_is_refused() -> None:
    with pytest.raises(ValueError, match="even number of channels, not 7"):
        rotate(torch.ones(2, 7), torch.ones(2))
    with pytest.raises(ValueError, match="multiple of four channels, not 6"):
        rotate_2d(torch.ones(2, 6), torch.ones(2, 2))


def test_a_distance_bias_depends_on_the_distance_and_is_constant_beyond_its_reach() -> None:
    bias = DistanceBias(((0.5, None), (0.0, 2.0)), reach=3)
    table = bias(6)
    assert table.shape == (2, 6, 6)
    for head in range(2):
        for distance in range(-5, 6):
            assert len(set(table[head].diagonal(distance).tolist())) == 1
    assert table[0, 4].tolist() == [-1.5, -1.5, -1.0, -0.5, 0.0, -6.0]  # back at a half a step, never ahead
    assert table[1, 0].tolist() == [0.0, -2.0, -4.0, -6.0, -6.0, -6.0]
