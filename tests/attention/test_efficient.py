"""The cheaper kinds equal dense attention where they should, and padding changes none of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detr_mini.attention.core import SIMILARITIES, attend, attend_plain
from detr_mini.attention.efficient import (
    Linformer,
    chunked,
    orthogonal_features,
    performer,
    windowed,
    windowed_blocked,
)
from detr_mini.errors import ConfigError

QUICK = settings(deadline=None, max_examples=40)
SEEDS = st.integers(0, 2**31)


def heads(seed: int, n: int, *, c: int = 4, d: int = 3, batch: tuple[int, ...] = (2, 3)) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(*batch, n, width, generator=g, dtype=torch.float64) for width in (c, c, d)]


def padding(seed: int, n: int) -> Tensor:
    """The second row of two is padded from somewhere on."""
    visible = 1 + seed % n
    return torch.stack([torch.zeros(n, dtype=torch.bool), torch.arange(n) >= visible])[:, None]


@QUICK
@given(SEEDS, st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.booleans())
def test_windows_equal_dense_attention_with_a_window_mask(
    seed: int, n: int, window: int, global_tokens: int, padded: bool
) -> None:
    query, key, value = heads(seed, n)
    mask = padding(seed, n) if padded else None
    answer = windowed(query, key, value, mask, window=window, global_tokens=global_tokens)
    blocked = windowed_blocked((n,), window, global_tokens)
    blocked = blocked if mask is None else blocked | mask[..., None, :]
    torch.testing.assert_close(answer, attend_plain(query, key, value, blocked), rtol=1e-10, atol=1e-10)


@QUICK
@given(SEEDS, st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_windows_on_a_map_cover_rows_and_columns(seed: int, h: int, w: int, window: int, padded: bool) -> None:
    query, key, value = heads(seed, h * w)
    mask = padding(seed, h * w) if padded else None
    answer = windowed(query, key, value, mask, window=window, size=(h, w))
    blocked = windowed_blocked((h, w), window)
    rows, columns = torch.arange(h * w) // w, torch.arange(h * w) % w
    far = ((rows[:, None] - rows).abs() > window) | ((columns[:, None] - columns).abs() > window)
    assert torch.equal(blocked, far)
    blocked = blocked if mask is None else blocked | mask[..., None, :]
    torch.testing.assert_close(answer, attend_plain(query, key, value, blocked), rtol=1e-10, atol=1e-10)


@QUICK
@given(SEEDS, st.integers(1, 30))
def test_a_window_as_wide_as_the_sequence_equals_dense_attention(seed: int, n: int) -> None:
    query, key, value = heads(seed, n)
    torch.testing.assert_close(windowed(query, key, value, window=n), attend(query, key, value), rtol=1e-10, atol=1e-10)


def test_windows_that_do_not_fit_the_map_are_refused() -> None:
    query, key, value = heads(0, 12)
    with pytest.raises(ValueError, match=r"12 elements in a map of \(3, 5\)"):
        windowed(query, key, value, window=2, size=(3, 5))
    with pytest.raises(ValueError, match="2 global tokens"):
        windowed(query, key, value, window=2, size=(3, 4), global_tokens=2)


@QUICK
@given(SEEDS, st.integers(1, 20), st.sampled_from(sorted(SIMILARITIES)))
def test_linformer_with_identity_projections_equals_dense_attention(seed: int, n: int, similarity: str) -> None:
    query, key, value = heads(seed, n)
    layer = Linformer((n,), n).double()
    with torch.no_grad():
        layer.key_projection.copy_(torch.eye(n))
        layer.value_projection.copy_(torch.eye(n))
    function = SIMILARITIES[similarity]
    dense = attend(query, key, value, similarity=function)
    torch.testing.assert_close(layer(query, key, value, None, None, function), dense, rtol=1e-10, atol=1e-10)


@QUICK
@given(SEEDS, st.integers(1, 5), st.integers(1, 5), st.integers(0, 4), st.integers(0, 4))
def test_padding_of_a_map_does_not_change_linformer(seed: int, h: int, w: int, more: int, wide: int) -> None:
    torch.manual_seed(seed)
    layer = Linformer((9, 9), 4).double()
    query, key, value = (x.unflatten(-2, (h, w)) for x in heads(seed, h * w))
    bigger = [torch.nn.functional.pad(x, (0, 0, 0, wide, 0, more), value=7.0).flatten(-3, -2) for x in (key, value)]
    mask = torch.ones(2, h + more, w + wide, dtype=torch.bool)
    mask[:, :h, :w] = False
    alone = layer(query.flatten(-3, -2), key.flatten(-3, -2), value.flatten(-3, -2), None, (h, w))
    padded = layer(query.flatten(-3, -2), *bigger, mask.flatten(1), (h + more, w + wide))
    torch.testing.assert_close(padded, alone, rtol=1e-10, atol=1e-10)


def test_an_input_larger_than_the_linformer_is_refused() -> None:
    query, key, value = heads(0, 12)
    with pytest.raises(ConfigError, match=r"size \(12,\) exceeds this Linformer's largest size \(9,\)"):
        Linformer((9,), 4).double()(query, key, value)


def test_features_are_orthogonal_in_blocks_and_have_the_lengths_of_normal_vectors() -> None:
    drawn = orthogonal_features(4000, 8, torch.Generator().manual_seed(0))
    block = torch.nn.functional.normalize(drawn[:8], dim=1)
    torch.testing.assert_close(block @ block.T, torch.eye(8, dtype=torch.float64))
    assert abs(drawn.square().sum(1).mean() - 8) < 0.3
    assert orthogonal_features(5, 8, torch.Generator()).shape == (5, 8)


def performer_error(features: int, trials: int = 24) -> float:
    """Root mean square over draws of features, of the difference to dense attention."""
    query, key, value = heads(1, 64, c=8, d=8)
    query, key = (torch.nn.functional.normalize(x, dim=-1) for x in (query, key))  # longer ones have heavier tails
    dense = attend_plain(query, key, value)
    errors = [
        performer(query, key, value, orthogonal_features(features, 8, torch.Generator().manual_seed(trial))) - dense
        for trial in range(trials)
    ]
    return float(torch.stack(errors).square().mean().sqrt())


def test_performers_error_falls_with_the_square_root_of_the_features() -> None:
    sizes = (64, 256, 1024, 4096)
    errors = [performer_error(size) for size in sizes]
    logs = torch.tensor([[math.log(size), math.log(error)] for size, error in zip(sizes, errors, strict=True)])
    centred = logs - logs.mean(0)
    slope = float((centred[:, 0] * centred[:, 1]).sum() / centred[:, 0].square().sum())
    assert -0.6 < slope < -0.4, (errors, slope)


@QUICK
@given(SEEDS, st.integers(1, 20))
def test_padding_does_not_change_performer(seed: int, n: int) -> None:
    query, key, value = heads(seed, n)
    features = orthogonal_features(16, 4, torch.Generator().manual_seed(seed))
    mask = padding(seed, n)
    visible = int((~mask[1]).sum())
    alone = performer(query[1:], key[1:, :, :visible], value[1:, :, :visible], features)
    spoiled = [torch.where(mask[..., None], 50.0, x) for x in (key, value)]
    torch.testing.assert_close(performer(query, *spoiled, features, mask)[1:], alone, rtol=1e-9, atol=1e-9)


def test_performer_gives_zeros_where_every_key_is_padding() -> None:
    query, key, value = heads(0, 5)
    features = orthogonal_features(16, 4, torch.Generator())
    assert not performer(query, key, value, features, torch.ones(2, 1, 5, dtype=torch.bool)).any()
    assert not performer(query, key[..., :0, :], value[..., :0, :], features).any()


@QUICK
@given(SEEDS, st.integers(0, 20), st.integers(1, 8), st.booleans(), st.sampled_from(sorted(SIMILARITIES)))
def test_chunked_attention_equals_dense_attention_and_its_gradient(
    seed: int, n: int, chunk: int, masked: bool, similarity: str
) -> None:
    inputs = [x.requires_grad_() for x in heads(seed, n)]
    blocked = torch.rand(2, 1, n, n, generator=torch.Generator().manual_seed(seed)) < 0.5 if masked else None
    function = SIMILARITIES[similarity]
    whole = attend_plain(*inputs, blocked, function)
    pieces = chunked(*inputs, blocked, chunk=chunk, similarity=function)
    torch.testing.assert_close(pieces, whole, rtol=1e-10, atol=1e-10)
    if n:
        gradients = [torch.autograd.grad(x.square().sum(), inputs) for x in (whole, pieces)]
        for exact, own in zip(*gradients, strict=True):
            torch.testing.assert_close(own, exact, rtol=1e-9, atol=1e-9)


def test_autocast_rounds_no_similarity_of_chunked_attention() -> None:
    """Long queries and keys of nearly one direction: in half precision, the differences between keys are lost."""
    query, key = (10 + scale * x.float() for scale, x in zip((1.0, 0.05), heads(0, 6)[:2], strict=True))
    value = torch.eye(6).expand(2, 3, 6, 6)  # so that the answer is the weights
    exact = chunked(query, key, value, chunk=4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(chunked(query, key, value, chunk=4), exact, rtol=0.02, atol=0.002, check_dtype=False)
