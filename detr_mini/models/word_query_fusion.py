"""Fusion layers over (query, word) pairs: which objects does each word refer to?

A word either describes objects ("red star") or relates the objects of one phrase to those of another ("left of"). The
model keeps a small state for each pair of an object query and a word. `Connectives` gives each word the words between
the phrases around it. `FusionLayer` passes on which objects the words refer to, and where the others lie from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from detr_mini.attention.core import attention_weights, products
from detr_mini.attention.positions import DistanceBias

RIVALS = 4
LEAST_LOG = -8.0


class Connectives(nn.Module):
    """Adds to each word the nearby words outside any phrase: "left of the" before "blue star".

    The attention weights depend on distance and tag only: softmax_j(log p_j + b_h(j - i)), where p_j is the probability
    that word j is outside every phrase. So words that describe objects do not come between a relation and its anchor.
    """

    def __init__(self, embedding: nn.Module, dim: int, *, ordered: bool = True) -> None:
        """`embedding` maps the words given to `forward` to `dim` channels. `ordered`: use distances."""
        super().__init__()
        self.embedding = embedding
        slopes = ((0.5, None), (0.15, None), (None, 0.3), (0.0, 0.0))
        self.distance = DistanceBias(slopes) if ordered else None
        self.heads = len(slopes)
        self.out_proj = nn.Linear(self.heads * dim, dim)
        nn.init.normal_(self.out_proj.weight, std=dim**-0.5)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        given: Int[Tensor, "c t"] | Float[Tensor, "c t e"],
        outside: Float[Tensor, "c t"],
        padding_mask: Bool[Tensor, "c t"],
    ) -> Float[Tensor, "c t d"]:
        """`given`: the words as ids or vectors. `outside`: log probability that a word is outside every phrase."""
        words = self.embedding(given)
        similarity = outside.clamp(min=-6)[:, None, None].expand(-1, self.heads, words.shape[1], -1)
        if self.distance is not None:
            similarity = similarity + self.distance(words.shape[1])
        weights = attention_weights(similarity, padding_mask[:, None, None])
        return self.out_proj((weights.to(words.dtype) @ words[:, None]).transpose(1, 2).flatten(2))


@dataclass(frozen=True)
class WordInputs:
    """The part of a `FusionLayer`'s input that depends on the words alone, so all queries share it."""

    attention: Float[Tensor, "c h t t"]
    """Weights with which each word attends to the others."""
    gate_from: Float[Tensor, "c t v"]
    gate_to: Float[Tensor, "c t v"]
    up: Float[Tensor, "c t f"]


class FusionLayer(nn.Module):
    """Updates the state s_it (of `width`) of every query i (vector x_i) and word t (vector w_t).

    1. Each word refers to a soft set of objects, d_it = sigmoid(logit_it); a second set is the layer's own. Query i
       sees the set through its pair features p_ik with the queries k: their sum, sum_k d_kt p_ik, and their mean.
    2. Words attend to each other. Gates of both words scale the message: w_j says which relation it is, w_t whether
       that relation is asked for.
    3. The queries compete for each word by a softmax over i ("nearest", "largest").
    4. A feed-forward layer on s_it, w_t and x_i.

    Steps 2 to 4 each add to the state.
    """

    def __init__(
        self, dim: int, *, width: int, heads: int, pair_dim: int, value: int = 64, ordered: bool = True
    ) -> None:
        super().__init__()
        if value % heads or dim % heads:
            raise ValueError(f"dim {dim} and value {value} must be multiples of heads {heads}")
        self.heads, self.key = heads, 16
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.names = nn.Linear(width, 1)
        self.value, self.between = nn.Linear(width, value), nn.Linear(4 * pair_dim, value)
        self.gate_from, self.gate_to = nn.Linear(dim, value), nn.Linear(dim, value)
        self.query_key = nn.Linear(dim, 2 * heads * self.key)
        self.distance = DistanceBias(((0.0, 0.0),) * heads) if ordered else None
        self.out_proj = nn.Linear(value, width)
        self.rivals, self.rivals_out = nn.Linear(width, RIVALS), nn.Linear(2 * RIVALS, width)
        self.up, self.up_word, self.up_thing = (nn.Linear(n, 3 * width) for n in (width, dim, dim))
        self.down = nn.Linear(3 * width, width)

    def forward(
        self,
        state: Float[Tensor, "c q t e"],
        logits: Float[Tensor, "c q t"],
        inputs: WordInputs,
        queries: Float[Tensor, "c q d"],
        pairs: Float[Tensor, "c q p k"],
        hidden: Bool[Tensor, "c q"],
    ) -> Float[Tensor, "c q t e"]:
        """`inputs`: of this layer (`word_inputs`). `pairs[:, i, :, k]`: features of query k as seen from query i.
        `hidden`: True for queries to ignore.
        """
        c, q, t, _ = state.shape
        x = self.norm1(state)
        speaks = torch.stack([logits, self.names(x)[..., 0]], -1).float().sigmoid()
        speaks = speaks.masked_fill(hidden[:, :, None, None], 0.0)
        sets = torch.cat([speaks / (speaks.sum(1, keepdim=True) + 0.1), speaks / 2], -1).to(state.dtype)
        seen = pairs.flatten(1, 2) @ sets.flatten(2)  # (c, q * p, t * 4)
        seen = seen.view(c, q, pairs.shape[2], t, 4).permute(0, 1, 3, 4, 2).flatten(3)
        message = (self.value(x) + self.between(seen)) * (1 + inputs.gate_from)[:, None]
        message = self._heads(inputs.attention.to(message.dtype), message)
        state = state + self.out_proj(message * (1 + inputs.gate_to)[:, None])
        score = self.rivals(x).float().masked_fill(hidden[:, :, None, None], -30.0).log_softmax(1)
        state = state + self.rivals_out(torch.cat([score.clamp(min=LEAST_LOG) / 2, score.exp()], -1).to(state.dtype))
        inner = self.up(self.norm2(state)) + inputs.up[:, None] + self.up_thing(queries)[:, :, None]
        return state + self.down(functional.gelu(inner))

    def word_inputs(self, words: Float[Tensor, "c t d"], padding_mask: Bool[Tensor, "c t"]) -> WordInputs:
        """The layer's `WordInputs`. `word_inputs_of` computes the same for several layers at once."""
        c, t, _ = words.shape
        query, key = self.query_key(words).view(c, t, 2, self.heads, self.key).permute(2, 0, 3, 1, 4).float()
        similarity = products(query, key) * self.key**-0.5
        if self.distance is not None:
            similarity = similarity + self.distance(t)
        attention = attention_weights(similarity, padding_mask[:, None, None])
        return WordInputs(attention, self.gate_from(words), self.gate_to(words), self.up_word(words))

    def _heads(self, weights: Float[Tensor, "c h t t"], values: Float[Tensor, "c q t v"]) -> Float[Tensor, "c q t v"]:
        """Weighted average over the words; each head has its share of the channels."""
        c, q, t, v = values.shape
        share = v // self.heads
        by_head = values.view(c, q, t, self.heads, share).permute(0, 3, 2, 1, 4).flatten(3)
        return (weights @ by_head).view(c, self.heads, t, q, share).permute(0, 3, 2, 1, 4).flatten(3)


def word_inputs_of(
    layers: Sequence[FusionLayer], words: Float[Tensor, "c t d"], padding_mask: Bool[Tensor, "c t"]
) -> list[WordInputs]:
    """Each layer's `word_inputs`, with a few large matrix products instead of many small ones."""
    c, t, _ = words.shape
    maps = [part for each in layers for part in (each.query_key, each.gate_from, each.gate_to, each.up_word)]
    weight, bias = torch.cat([part.weight for part in maps]), torch.cat([part.bias for part in maps])
    parts = functional.linear(words, weight, bias).split([part.out_features for part in maps], -1)
    heads, key = layers[0].heads, layers[0].key
    query_key = torch.stack(parts[::4], 2).view(c, t, len(layers), 2, heads, key).permute(3, 0, 2, 4, 1, 5).float()
    similarity = products(query_key[0], query_key[1]) * key**-0.5
    tables = [layer.distance(t) for layer in layers if layer.distance is not None]
    if tables:
        similarity = similarity + torch.stack(tables)
    attention = attention_weights(similarity, padding_mask[:, None, None, None])
    return [WordInputs(a, *parts[4 * i + 1 : 4 * i + 4]) for i, a in enumerate(attention.unbind(1))]
