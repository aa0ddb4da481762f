"""The text encoder: embedding, positions, and layers of self-attention turn a caption's tokens into vectors."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from detr_mini.attention.core import scaled_dot
from detr_mini.attention.encoder import EncoderLayer
from detr_mini.attention.kinds import BiasedByDistance, Dense
from detr_mini.attention.multihead import blocked_by_padding
from detr_mini.attention.positions import DistanceBias, LearnedPositions1d, sine_positions_1d
from detr_mini.errors import ConfigError, nearest

POSITIONS = ("relative", "sine", "learned", "none")
NEARBY = ((0.7, None), (None, 0.7), (0.25, 0.25), (0.0, 0.0))
"""The initial slopes of relative positions: heads that look back, ahead, nearby and everywhere (`DistanceBias`)."""


class TextEncoder(nn.Module):
    """Token ids to vectors, with pre-norm layers and a final norm.

    `positions`: relative (a bias per head and distance in each layer, `DistanceBias`), sine or learned (added once to
    the embedding, Vaswani et al. 2017, sec. 3.4 and 3.5; learned ones up to `max_tokens`), or none (a set without
    order). Padding changes no vector of a caption, and gives zeros itself.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        dim: int = 128,
        heads: int = 4,
        feedforward: int = 256,
        layers: int = 2,
        positions: str = "relative",
        max_tokens: int = 256,
    ) -> None:
        super().__init__()
        if positions not in POSITIONS:
            known = f"{nearest(positions, POSITIONS)}; the kinds are {', '.join(POSITIONS)}"
            raise ConfigError(f"text positions '{positions}' do not exist{known}")
        self.kind, self.max_tokens = positions, max_tokens
        self.embedding = nn.Embedding(vocabulary, dim)
        nn.init.normal_(self.embedding.weight, std=0.5**0.5)  # of the size of a sine code
        self.positions = LearnedPositions1d(max_tokens, dim) if positions == "learned" else None
        self.layers = nn.ModuleList(
            EncoderLayer(dim, heads, feedforward, self._attention(heads)) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)

    def _attention(self, heads: int) -> Dense:
        """The attention of one layer."""
        if self.kind != "relative":
            return Dense(scaled_dot)
        return BiasedByDistance(DistanceBias([NEARBY[head % len(NEARBY)] for head in range(heads)]))

    def forward(
        self, ids: Int[Tensor, "c t"], padding_mask: Bool[Tensor, "c t"], need_weights: bool = False
    ) -> tuple[Float[Tensor, "c t d"], list[Float[Tensor, "c h t t"]]]:
        """The vector of each token and, if `need_weights`, the attention weights of each layer.

        `padding_mask` is True on padding. ValueError for more than `max_tokens` tokens.
        """
        if ids.shape[1] > self.max_tokens:
            raise ValueError(f"{ids.shape[1]} tokens are more than the {self.max_tokens} that this encoder takes")
        x = self.embedding(ids)
        if self.positions is not None:
            x = x + self.positions(ids.shape[1])
        elif self.kind == "sine":
            x = x + sine_positions_1d(padding_mask, x.shape[-1]).to(x.dtype)
        blocked, weights = blocked_by_padding(padding_mask), []
        layer: Any
        for layer in self.layers:
            if need_weights:
                weights.append(layer.weights(x, None, blocked))
            x = layer(x, None, blocked)
        return self.norm(x).masked_fill(padding_mask[..., None], 0.0), weights
