"""The set operator: queries look at keys and take the weighted average of their values.

Each formula stands here twice, readable and fused; the tests hold the two equal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

Pair = tuple[Tensor, Tensor]
Similarity = Callable[[Tensor, Tensor], Pair]
"""How alike a query and a key are, given as both rescaled: the similarity is the dot product of what comes back.

So a kind is one function, and the readable and the fused form of the weighted average serve every kind. Each side takes
half of a factor: random features (`efficient.performer`) want both of one size.
"""


def dot(query: Float[Tensor, "*batch m c"], key: Float[Tensor, "*batch n c"]) -> Pair:
    """q k."""
    return query, key


def scaled_dot(query: Float[Tensor, "*batch m c"], key: Float[Tensor, "*batch n c"]) -> Pair:
    """q k / sqrt(c) (Vaswani et al. 2017, eq. 1): of variance one where q and k are, whatever their width c."""
    share = max(query.shape[-1], 1) ** -0.25
    return query * share, key * share


def cosine(
    query: Float[Tensor, "*batch m c"], key: Float[Tensor, "*batch n c"], temperature: float | Tensor = 0.1
) -> Pair:
    """q k / (|q| |k|), divided by `temperature`: lengths say nothing (Liu et al. 2022, "Swin V2"). Zero vectors: 0.

    A cosine is at most one, and softmax over such numbers is nearly flat: hence the temperature. A tensor broadcasts
    over the query's (*batch, 1, 1).
    """
    return _scaled_by_length(query, 1.0) / temperature**0.5, _scaled_by_length(key, 1.0) / temperature**0.5


def root_length(query: Float[Tensor, "*batch m c"], key: Float[Tensor, "*batch n c"]) -> Pair:
    """q k / sqrt(|q| |k|): between dot and cosine, a length counts by its root. Zero vectors: 0."""
    return _scaled_by_length(query, 0.5), _scaled_by_length(key, 0.5)


SIMILARITIES: dict[str, Similarity] = {
    "scaled_dot": scaled_dot,
    "cosine": cosine,
    "root_length": root_length,
    "dot": dot,
}


def _scaled_by_length(x: Float[Tensor, "*batch n c"], power: float) -> Float[Tensor, "*batch n c"]:
    """x / |x|^power; in float32 at least, since half precision has no squares of large numbers."""
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    squared = precise.square().sum(-1, keepdim=True)
    return (precise * squared.clamp(min=torch.finfo(squared.dtype).tiny).pow(-power / 2)).to(x.dtype)


def similarities(
    query: Float[Tensor, "*batch m c"], key: Float[Tensor, "*batch n c"], similarity: Similarity = scaled_dot
) -> Float[Tensor, "*batch m n"]:
    """The matrix of all pairs' similarities, in float32 at least: half precision overflows."""
    precise = torch.promote_types(query.dtype, torch.float32)
    query, key = similarity(query.to(precise), key.to(precise))
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
    similarity: Similarity = scaled_dot,
) -> Float[Tensor, "*batch m d"]:
    """Weighted average of `value`, weights softmax(similarity) (Vaswani et al. 2017, eq. 1): the readable form."""
    _check(query, key, value)
    return attention_weights(similarities(query, key, similarity), blocked).to(value.dtype) @ value


def attend(
    query: Float[Tensor, "*batch m c"],
    key: Float[Tensor, "*batch n c"],
    value: Float[Tensor, "*batch n d"],
    blocked: Bool[Tensor, "..."] | None = None,
    dropout: float = 0.0,
    similarity: Similarity = scaled_dot,
) -> Float[Tensor, "*batch m d"]:
    """`attend_plain` through torch's fused kernel: no m x n matrix is kept (but see `attend_small`).

    `blocked` is True where a query must not look. A query that may look nowhere gets zeros, not NaN. `dropout` is the
    probability that a weight is set to zero (the others grow in turn), by torch's random state.
    """
    _check(query, key, value)
    if key.shape[-2] == 0:
        return attend_plain(query, key, value)
    if _small_is_faster(query, key) and not dropout:
        return attend_small(query, key, value, blocked, similarity)
    query, key = similarity(query, key)
    fused = partial(functional.scaled_dot_product_attention, dropout_p=dropout, scale=1.0)
    if blocked is None:
        return fused(query, key, value)
    blocked = blocked.expand(*query.shape[:-1], key.shape[-2])
    # A row of -inf has no softmax. Such a query looks everywhere instead, and its answer is taken back.
    nowhere = blocked.all(-1, keepdim=True)
    return fused(query, key, value, attn_mask=~blocked | nowhere).masked_fill(nowhere, 0.0)


def attend_small(
    query: Float[Tensor, "*batch m c"],
    key: Float[Tensor, "*batch n c"],
    value: Float[Tensor, "*batch n d"],
    blocked: Bool[Tensor, "..."] | None = None,
    similarity: Similarity = scaled_dot,
) -> Float[Tensor, "*batch m d"]:
    """`attend_plain` in the inputs' own precision throughout.

    `attend` is this for few queries and keys in bfloat16 on a CPU, where the fused kernel costs more than the products
    (docs/results.md).
    """
    query, key = similarity(query, key)
    return attention_weights(query @ key.transpose(-1, -2), blocked) @ value


def _small_is_faster(query: Tensor, key: Tensor) -> bool:
    """Measured up to 256 queries by 256 keys."""
    return query.dtype == torch.bfloat16 and query.device.type == "cpu" and query.shape[-2] * key.shape[-2] <= 2**16


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} do not fit: "
            "their last sides, the width c, must be equal"
        )
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"key {tuple(key.shape)} and value {tuple(value.shape)} do not fit: "
            "their last sides but one, the number n, must be equal"
        )
