"""The set operator: queries look at keys and take the weighted average of their values.

Each formula stands here twice, readable and fused; the tests hold the two equal.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def scaled_dot(query: Float[Tensor, "*batch m c"], key: Float[Tensor, "*batch n c"]) -> Float[Tensor, "*batch m n"]:
    """Similarity q k^T / sqrt(c) (Vaswani et al. 2017, eq. 1), in float32 at least: half precision overflows."""
    precise = torch.promote_types(query.dtype, torch.float32)
    query, key = query.to(precise) / math.sqrt(max(query.shape[-1], 1)), key.to(precise)
    return query @ key.transpose(-1, -2)


def attention_weights(
    similarity: Float[Tensor, "*batch m n"], blocked: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*batch m n"]:
    """Softmax over the keys. `blocked` (broadcast to m x n) is True where a query must not look.

    Rows sum to one; a query that may look nowhere gets zeros, not NaN.
    """
    if similarity.shape[-1] == 0:
        return similarity
    if blocked is None:
        return similarity.softmax(-1)
    nowhere = blocked.all(-1, keepdim=True)
    weights = similarity.masked_fill(blocked & ~nowhere, -torch.inf).softmax(-1)
    return weights.masked_fill(blocked, 0.0)


def attend_plain(
    query: Float[Tensor, "*batch m c"],
    key: Float[Tensor, "*batch n c"],
    value: Float[Tensor, "*batch n d"],
    blocked: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*batch m d"]:
    """Weighted average of `value`, weights softmax(q k^T / sqrt(c)) (Vaswani et al. 2017, eq. 1): the readable form."""
    return attention_weights(scaled_dot(query, key), blocked).to(value.dtype) @ value


def attend(
    query: Float[Tensor, "*batch m c"],
    key: Float[Tensor, "*batch n c"],
    value: Float[Tensor, "*batch n d"],
    blocked: Bool[Tensor, "..."] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "*batch m d"]:
    """`attend_plain` through torch's fused kernel: no m x n matrix is kept.

    `blocked` is True where a query must not look. A query that may look nowhere gets zeros, not NaN. `dropout` is the
    probability that a weight is set to zero (the others grow in turn), by torch's random state.
    """
    if key.shape[-2] == 0:
        return attend_plain(query, key, value)
    if blocked is None:
        return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    blocked = blocked.expand(*query.shape[:-1], key.shape[-2])
    # A row of -inf has no softmax. Such a query looks everywhere instead, and its answer is taken back.
    nowhere = blocked.all(-1, keepdim=True)
    answer = functional.scaled_dot_product_attention(query, key, value, attn_mask=~blocked | nowhere, dropout_p=dropout)
    return answer.masked_fill(nowhere, 0.0)


def attend_small(
    query: Float[Tensor, "*batch m c"],
    key: Float[Tensor, "*batch n c"],
    value: Float[Tensor, "*batch n d"],
    blocked: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*batch m d"]:
    """`attend_plain` in the inputs' own precision throughout.

    For few queries and keys in bfloat16 on a CPU, where the fused kernel costs more than the products
    (docs/results.md).
    """
    similarity = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return attention_weights(similarity, blocked) @ value


def small_is_faster(query: Tensor, key: Tensor) -> bool:
    """Whether `attend_small` beats `attend` (measured up to 256 queries by 256 keys)."""
    return query.dtype == torch.bfloat16 and query.device.type == "cpu" and query.shape[-2] * key.shape[-2] <= 2**16
