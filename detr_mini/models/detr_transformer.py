"""The transformer of DETR (Carion et al. 2020, app. A.3): positions added to queries and keys of each layer.

Post-norm as published, or pre-norm, the published code's option.
Modules bear the names of the published implementation, so that its weights can be mapped by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from detr_mini.attention.core import scaled_dot
from detr_mini.attention.kinds import Dense
from detr_mini.attention.multihead import MultiHeadAttention

_SAME = nn.Identity()


class EncoderLayer(nn.Module):
    """x = norm(x + self-attention(x)), x = norm(x + feed-forward(x)).

    `pre_norm`: x = x + self-attention(norm(x)), x = x + feed-forward(norm(x)).
    """

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float, pre_norm: bool = False) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = MultiHeadAttention(dim, heads, attention=Dense(scaled_dot, dropout))
        self.linear1, self.linear2 = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "b n c"], position: Float[Tensor, "b n c"], blocked: Bool[Tensor, "b 1 n"] | None
    ) -> Float[Tensor, "b n c"]:
        """`blocked` is True where nobody must look (padding)."""
        if self.pre_norm:
            x = x + self._attended(self.norm1(x), position, blocked)
            return x + self._processed(self.norm2(x))
        x = self.norm1(x + self._attended(x, position, blocked))
        return self.norm2(x + self._processed(x))

    def _attended(
        self, x: Float[Tensor, "b n c"], position: Float[Tensor, "b n c"], blocked: Bool[Tensor, "b 1 n"] | None
    ) -> Float[Tensor, "b n c"]:
        place = x + position
        return self.dropout(self.self_attn(place, place, x, blocked))

    def _processed(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        hidden = self.dropout(functional.relu(self.linear1(x)))
        return self.dropout(self.linear2(hidden))


class DecoderLayer(nn.Module):
    """Queries among themselves, queries over the memory, feed-forward; a norm after each (`pre_norm`: before each)."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float, pre_norm: bool = False) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = MultiHeadAttention(dim, heads, attention=Dense(scaled_dot, dropout))
        self.multihead_attn = MultiHeadAttention(dim, heads, attention=Dense(scaled_dot, dropout))
        self.linear1, self.linear2 = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        query: Float[Tensor, "b q c"],
        query_position: Float[Tensor, "b q c"],
        memory: Float[Tensor, "b n c"],
        position: Float[Tensor, "b n c"],
        blocked: Bool[Tensor, "b 1 n"] | None,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b q n"] | None]:
        """The queries, and on request where they looked in the memory (mean over heads). `blocked`: see the encoder."""
        before, after = self._norms()
        x = before[0](query)
        place = x + query_position
        query = after[0](query + self.dropout(self.self_attn(place, place, x)))
        place, keys = before[1](query) + query_position, memory + position
        looked = self.multihead_attn.weights(place, keys, blocked).mean(1) if need_weights else None
        query = after[1](query + self.dropout(self.multihead_attn(place, keys, memory, blocked)))
        hidden = self.dropout(functional.relu(self.linear1(before[2](query))))
        return after[2](query + self.dropout(self.linear2(hidden))), looked

    def _norms(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        """What each of the three parts does to its input, and to its sum with it."""
        norms, same = (self.norm1, self.norm2, self.norm3), (_SAME,) * 3
        return (norms, same) if self.pre_norm else (same, norms)


class Encoder(nn.Module):
    """Encoder layers, one after the other; a last norm where the layers norm their inputs only."""

    def __init__(self, layers: Sequence[EncoderLayer], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(
        self, x: Float[Tensor, "b n c"], position: Float[Tensor, "b n c"], blocked: Bool[Tensor, "b 1 n"] | None
    ) -> Float[Tensor, "b n c"]:
        for layer in self.layers:
            x = layer(x, position, blocked)
        return x if self.norm is None else self.norm(x)


class Decoder(nn.Module):
    """Decoder layers; what each of them says goes out through one shared norm."""

    def __init__(self, layers: Sequence[DecoderLayer], dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        query: Float[Tensor, "b q c"],
        query_position: Float[Tensor, "b q c"],
        memory: Float[Tensor, "b n c"],
        position: Float[Tensor, "b n c"],
        blocked: Bool[Tensor, "b 1 n"] | None,
        need_weights: bool = False,
    ) -> tuple[list[Float[Tensor, "b q c"]], list[Float[Tensor, "b q n"]]]:
        """Every layer's normed output, and on request where the queries looked in each."""
        outputs, maps = [], []
        for layer in self.layers:
            query, looked = layer(query, query_position, memory, position, blocked, need_weights)
            outputs.append(self.norm(query))
            if looked is not None:
                maps.append(looked)
        return outputs, maps


class Transformer(nn.Module):
    """Encoder and decoder, with the published initialisation."""

    def __init__(
        self,
        dim: int,
        heads: int,
        feedforward: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        layer = (dim, heads, feedforward, dropout, pre_norm)
        norm = nn.LayerNorm(dim) if pre_norm else None
        self.encoder = Encoder([EncoderLayer(*layer) for _ in range(encoder_layers)], norm)
        self.decoder = Decoder([DecoderLayer(*layer) for _ in range(decoder_layers)], dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                # the original draws the three as one matrix of 3 dim rows, and so from a narrower range
                for projection in (module.q_proj, module.k_proj, module.v_proj):
                    nn.init.xavier_uniform_(projection.weight, gain=math.sqrt(0.5))


class BoxMLP(nn.Module):
    """Three linear layers with ReLU between them, from a query's features to a box before the sigmoid."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 4)])

    def forward(self, features: Float[Tensor, "*n c"]) -> Float[Tensor, "*n 4"]:
        first, second, last = self.layers
        return last(functional.relu(second(functional.relu(first(features)))))
