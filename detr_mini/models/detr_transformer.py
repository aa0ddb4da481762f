"""The transformer of DETR (Carion et al. 2020, app. A.3): post-norm, positions added to queries and keys of each layer.

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


class EncoderLayer(nn.Module):
    """x = norm(x + self-attention(x)), x = norm(x + feed-forward(x))."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(dim, heads, attention=Dense(scaled_dot, dropout))
        self.linear1, self.linear2 = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "b n c"], position: Float[Tensor, "b n c"], blocked: Bool[Tensor, "b 1 n"] | None
    ) -> Float[Tensor, "b n c"]:
        """`blocked` is True where nobody must look (padding)."""
        place = x + position
        x = self.norm1(x + self.dropout(self.self_attn(place, place, x, blocked)))
        hidden = self.dropout(functional.relu(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(hidden)))


class DecoderLayer(nn.Module):
    """Queries among themselves, queries over the memory, feed-forward; a norm after each."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
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
        place = query + query_position
        query = self.norm1(query + self.dropout(self.self_attn(place, place, query)))
        place, keys = query + query_position, memory + position
        looked = self.multihead_attn.weights(place, keys, blocked).mean(1) if need_weights else None
        query = self.norm2(query + self.dropout(self.multihead_attn(place, keys, memory, blocked)))
        hidden = self.dropout(functional.relu(self.linear1(query)))
        return self.norm3(query + self.dropout(self.linear2(hidden))), looked


class Encoder(nn.Module):
    """Encoder layers, one after the other."""

    def __init__(self, layers: Sequence[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self, x: Float[Tensor, "b n c"], position: Float[Tensor, "b n c"], blocked: Bool[Tensor, "b 1 n"] | None
    ) -> Float[Tensor, "b n c"]:
        for layer in self.layers:
            x = layer(x, position, blocked)
        return x


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
        self, dim: int, heads: int, feedforward: int, encoder_layers: int, decoder_layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.encoder = Encoder([EncoderLayer(dim, heads, feedforward, dropout) for _ in range(encoder_layers)])
        self.decoder = Decoder([DecoderLayer(dim, heads, feedforward, dropout) for _ in range(decoder_layers)], dim)
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
