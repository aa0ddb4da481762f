"""A pre-norm layer of self-attention, for the cells of a feature map and the tokens of a caption."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from detr_mini.attention.multihead import MultiHeadAttention


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x)) (pre-norm: Xiong et al. 2020)."""

    def __init__(self, dim: int, heads: int, feedforward: int, attention: nn.Module | None = None) -> None:
        """`attention`: the kind of attention in each head (`kinds`); dense if None."""
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, heads, attention=attention)
        self.feedforward = nn.Sequential(nn.Linear(dim, feedforward), nn.ReLU(), nn.Linear(feedforward, dim))

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        position: Float[Tensor, "#b n c"] | None,
        blocked: Bool[Tensor, "#b #n n"] | None,
        size: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """`position` is added to queries and keys; `blocked` and `size` as in `MultiHeadAttention`."""
        y = self.norm1(x)
        place = y if position is None else y + position
        x = x + self.attention(place, place, y, blocked, size)
        return x + self.feedforward(self.norm2(x))

    def weights(
        self,
        x: Float[Tensor, "b n c"],
        position: Float[Tensor, "#b n c"] | None,
        blocked: Bool[Tensor, "#b #n n"] | None,
    ) -> Float[Tensor, "b h n n"]:
        """Where each head looks in `forward`."""
        y = self.norm1(x)
        place = y if position is None else y + position
        return self.attention.weights(place, place, blocked)
