"""Multi-head attention equals torch's own layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from detr_mini.attention.core import scaled_dot
from detr_mini.attention.kinds import Dense
from detr_mini.attention.multihead import MultiHeadAttention, blocked_by_padding, join_blocked

QUICK = settings(deadline=None, max_examples=30)
COUNTS = st.integers(1, 6)


def pair(dim: int, heads: int, key_dim: int, value_dim: int) -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
    """Ours and torch's with the same weights."""
    ours = MultiHeadAttention(dim, heads, key_dim=key_dim, value_dim=value_dim).double().eval()
    theirs = nn.MultiheadAttention(dim, heads, kdim=key_dim, vdim=value_dim, batch_first=True).double().eval()
    parts = (ours.q_proj, ours.k_proj, ours.v_proj)
    with torch.no_grad():
        for part in (*parts, ours.out_proj):
            part.bias.normal_()
        if theirs.in_proj_weight is not None:
            theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        else:
            for name, part in zip(("q", "k", "v"), parts, strict=True):
                getattr(theirs, f"{name}_proj_weight").copy_(part.weight)
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    return ours, theirs


@QUICK
@given(
    st.sampled_from([(8, 2, 8, 8), (8, 8, 8, 8), (12, 3, 5, 7), (6, 1, 6, 4)]),
    COUNTS,
    COUNTS,
    st.integers(0, 2**31),
    st.sampled_from(["none", "padding", "pairs"]),
)
def test_it_equals_torchs_layer_with_the_same_weights(
    sizes: tuple[int, int, int, int], m: int, n: int, seed: int, kind: str
) -> None:
    torch.manual_seed(seed)
    ours, theirs = pair(*sizes)
    dim, _, key_dim, value_dim = sizes
    query, key, value = (
        torch.randn(2, count, width, dtype=torch.float64) for count, width in ((m, dim), (n, key_dim), (n, value_dim))
    )
    blocked: Tensor | None = None
    masks: dict[str, Tensor] = {}
    if kind == "padding":
        padding = torch.arange(n)[None] >= torch.randint(1, n + 1, (2, 1))
        blocked, masks = blocked_by_padding(padding), {"key_padding_mask": padding}
    elif kind == "pairs":
        pairs = torch.rand(m, n) < 0.5
        pairs[:, 0] = False  # where all is blocked torch's layer gives NaN
        blocked, masks = pairs[None], {"attn_mask": pairs}
    expected, weights = theirs(query, key, value, average_attn_weights=False, **masks)
    torch.testing.assert_close(ours(query, key, value, blocked), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.weights(query, key, blocked), weights, rtol=1e-6, atol=1e-7)


@QUICK
@given(COUNTS, COUNTS, st.integers(0, 2**31))
def test_the_order_of_keys_does_not_matter_and_that_of_queries_is_kept(m: int, n: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = MultiHeadAttention(8, 2).double()
    query, key, value = (torch.randn(2, count, 8, dtype=torch.float64) for count in (m, n, n))
    rows, columns = torch.randperm(m), torch.randperm(n)
    torch.testing.assert_close(
        layer(query[:, rows], key[:, columns], value[:, columns]), layer(query, key, value)[:, rows]
    )


def test_a_query_that_may_look_nowhere_gets_only_the_output_bias() -> None:
    layer = MultiHeadAttention(8, 2)
    nn.init.normal_(layer.out_proj.bias)
    x = torch.randn(2, 3, 8, requires_grad=True)
    blocked = torch.zeros(1, 3, 3, dtype=torch.bool)
    blocked[:, 1] = True
    answer = layer(x, x, x, blocked)
    torch.testing.assert_close(answer[:, 1], layer.out_proj.bias.expand(2, -1))
    answer.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    nothing = torch.zeros(2, 0, 8)
    torch.testing.assert_close(layer(x, nothing, nothing), layer.out_proj.bias.expand(2, 3, -1))


def test_dropout_acts_in_training_only() -> None:
    layer = MultiHeadAttention(8, 2, attention=Dense(scaled_dot, dropout=0.5))
    x = torch.randn(2, 5, 8)
    torch.manual_seed(0)
    first, second = layer(x, x, x), layer(x, x, x)
    torch.manual_seed(0)
    assert torch.equal(layer(x, x, x), first)
    assert not torch.equal(first, second)
    layer.eval()
    assert torch.equal(layer(x, x, x), layer(x, x, x))


def test_a_width_that_does_not_split_into_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="dim 10 is not a multiple of heads 4"):
        MultiHeadAttention(10, 4)


def test_joined_masks_block_where_either_mask_blocks() -> None:
    a, b = torch.tensor([[[True, False]]]), torch.tensor([[[False, False]], [[False, True]]])
    joined = join_blocked(a, b)
    assert joined is not None
    assert joined.tolist() == [[[True, False]], [[True, True]]]
    assert join_blocked(a, None) is a
    assert join_blocked(None, b) is b
    assert join_blocked(None, None) is None
    assert blocked_by_padding(None) is None
