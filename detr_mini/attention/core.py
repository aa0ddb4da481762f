"""The set operator: each query attends to all keys and takes the weighted average of their values.

Each formula has a readable and a fused form. Tests check that the two are equal.
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
"""A similarity of query and key, as a function that rescales both: the similarity is the dot product of its results.

So both forms of the weighted average serve every similarity. A scalar factor is split evenly between the two sides,
since random features (`efficient.performer`) need vectors of similar length.
"""


def dot(query: Float[Tensor, "*batch m c"], key: Float[Tensor, "*batch n c"]) -> Pair:
    """q k."""
    return query, key


def scaled_dot(query: Float[Tensor, "*batch m c"], key: Float[Tensor, "*batch n c"]) -> Pair:
    """q k / sqrt(c) (Vaswani et al. 2017, eq. 1): has unit variance if q and k have, for any width c."""
    share = max(query.shape[-1], 1) ** -0.25
    return query * share, key * share


def cosine(
    query: Float[Tensor, "*batch m c"], key: Float[Tensor, "*batch n c"], temperature: float | Tensor = 0.1
) -> Pair:
    """q k / (|q| |k|), divided by `temperature`: lengths have no effect (Liu et al. 2022, "Swin V2"). Zero vectors: 0.

    The temperature is needed because a cosine is at most one, and softmax over such small numbers is nearly flat. A
    tensor of temperatures must broadcast to (*batch, 1, 1).
    """
    return _scaled_by_length(query, 1.0) / temperature**0.5, _scaled_by_length(key, 1.0) / temperature**0.5


def root_length(query: Float[Tensor, "*batch m c"], key: Float[Tensor, "*batch n c"]) -> Pair:
    """q k / sqrt(|q| |k|): between dot product and cosine, the square root of a length counts. Zero vectors: 0."""
    return _scaled_by_length(query, 0.5), _scaled_by_length(key, 0.5)


SIMILARITIES: dict[str, Similarity] = {
    "scaled_dot": scaled_dot,
    "cosine": cosine,
    "root_length": root_length,
    "dot": dot,
}


def _scaled_by_length(x: Float[Tensor, "*batch n c"], power: float) -> Float[Tensor, "*batch n c"]:
    """x / |x|^power; in float32 at least, since squares of large numbers overflow half precision."""
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    squared = precise.square().sum(-1, keepdim=True)
    return (precise * squared.clamp(min=torch.finfo(squared.dtype).tiny).pow(-power / 2)).to(x.dtype)


def similarities(
    query: Float[Tensor, "*batch m c"], key: Float[Tensor, "*batch n c"], similarity: Similarity = scaled_dot
) -> Float[Tensor, "*batch m n"]:
    """The similarity of each query and key, in float32 at least, since half precision overflows."""
    precise = torch.promote_types(query.dtype, torch.float32)
    return products(*similarity(query.to(precise), key.to(precise)))


def products(query: Float[Tensor, "*batch m c"], key: Float[Tensor, "*batch n c"]) -> Float[Tensor, "*batch m n"]:
    """q k of each query and key, in their own precision: autocast would round both to half precision."""
    with torch.autocast(query.device.type, enabled=False):
        return query @ key.transpose(-1, -2)


def attention_weights(
    similarity: Float[Tensor, "*batch m n"], blocked: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*batch m n"]:
    """Softmax over the keys. `blocked` (broadcast to m x n) is True where a query must not look.

    Rows sum to one. A query that may look nowhere gets zeros, not NaN.
    """
    if is_zero(similarity.shape[-1]):
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
    """`attend_plain` through torch's fused kernel, which keeps no m x n matrix (but see `attend_small`).

    `blocked` is True where a query must not look; a mask of the keys alone is not expanded to m x n. A query that may
    look nowhere gets zeros, not NaN. `dropout` is the probability that a weight is set to zero; the others are scaled
    up to compensate.
    """
    _check(query, key, value)
    if is_zero(key.shape[-2]):
        return attend_plain(query, key, value)
    if _small_is_faster(query, key) and not dropout:
        return attend_small(query, key, value, blocked, similarity)
    scale = 1.0
    if similarity is scaled_dot:
        scale = max(query.shape[-1], 1) ** -0.5  # the kernel multiplies by it at no cost
    else:
        query, key = similarity(query, key)
    fused = partial(functional.scaled_dot_product_attention, dropout_p=dropout, scale=scale)
    if blocked is None:
        return fused(query, key, value)
    while blocked.dim() < query.dim():  # the fast kernels broadcast a mask only if it has the query's dimensions
        blocked = blocked[None]
    # The softmax of a row of -inf is NaN. Such a query looks everywhere instead, and its result is zeroed afterwards.
    nowhere = blocked.all(-1, keepdim=True)
    return fused(query, key, value, attn_mask=~blocked | nowhere).masked_fill(nowhere, 0.0)


def is_zero(size: int) -> bool:
    """Whether there is nothing; False for a size that is a formula while torch traces, and so is not known."""
    return isinstance(size, int) and size == 0


def attend_small(
    query: Float[Tensor, "*batch m c"],
    key: Float[Tensor, "*batch n c"],
    value: Float[Tensor, "*batch n d"],
    blocked: Bool[Tensor, "..."] | None = None,
    similarity: Similarity = scaled_dot,
) -> Float[Tensor, "*batch m d"]:
    """`attend_plain`, but entirely in the precision of its inputs.

    `attend` calls it for few queries and keys in bfloat16 on a CPU, where the fused kernel is slower
    (docs/log/speed.md).
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
            "their last dimensions, the width c, must be equal"
        )
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"key {tuple(key.shape)} and value {tuple(value.shape)} do not fit: "
            "their second-to-last dimensions, the number n, must be equal"
        )
