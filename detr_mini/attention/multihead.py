"""Multi-head attention: the set operator run several times in parallel on learned projections."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detr_mini.attention.core import scaled_dot
from detr_mini.attention.kinds import Dense


class MultiHeadAttention(nn.Module):
    """Concat(head_1 .. head_H) W_O, head_i = attention(q W_i^Q, k W_i^K, v W_i^V) (Vaswani et al. 2017, sec. 3.2.2).

    `attention`: the kind of attention in each head (`kinds`); dense with scaled dot products if None. `key_dim` and
    `value_dim`: the widths of keys and values, `dim` if None. `dim` must be a multiple of `heads`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        key_dim: int | None = None,
        value_dim: int | None = None,
        attention: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        self.heads = heads
        self.attention = attention or Dense(scaled_dot)
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(key_dim or dim, dim)
        self.v_proj = nn.Linear(value_dim or dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Float[Tensor, "b m c"],
        key: Float[Tensor, "b n ck"],
        value: Float[Tensor, "b n cv"],
        blocked: Bool[Tensor, "#b #m n"] | None = None,
        size: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "b m c"]:
        """`blocked` is True where a query must not look; see `blocked_by_padding` for a padding mask of the keys.

        `size`: (h, w) if the elements are the cells of a map, row by row; some kinds need it.
        """
        q, k, v = self._split(self.q_proj(query)), self._split(self.k_proj(key)), self._split(self.v_proj(value))
        heads = self.attention(q, k, v, None if blocked is None else blocked[:, None], size)
        return self.out_proj(heads.transpose(1, 2).flatten(2))

    def weights(
        self,
        query: Float[Tensor, "b m c"],
        key: Float[Tensor, "b n ck"],
        blocked: Bool[Tensor, "#b #m n"] | None = None,
    ) -> Float[Tensor, "b h m n"]:
        """Where each head of a dense layer looks. A separate method, so that `forward` keeps no weights.

        ValueError for other kinds, which compute no such weights.
        """
        if not isinstance(self.attention, Dense):
            raise ValueError(
                f"{type(self.attention).__name__} attention computes no weights to show; only dense attention does"
            )
        q, k = self._split(self.q_proj(query)), self._split(self.k_proj(key))
        return self.attention.weights(q, k, None if blocked is None else blocked[:, None])

    def _split(self, projected: Float[Tensor, "b n c"]) -> Float[Tensor, "b h n d"]:
        b, n, c = projected.shape
        return projected.view(b, n, self.heads, c // self.heads).transpose(1, 2)


def blocked_by_padding(padding_mask: Bool[Tensor, "b n"] | None) -> Bool[Tensor, "b 1 n"] | None:
    """A padding mask of the keys as `blocked`."""
    return None if padding_mask is None else padding_mask[:, None, :]


def join_blocked(a: Bool[Tensor, "..."] | None, b: Bool[Tensor, "..."] | None) -> Bool[Tensor, "..."] | None:
    """Blocked where either mask is True."""
    if a is None or b is None:
        return a if b is None else b
    return torch.logical_or(a, b)
