"""A published sentence encoder as an alternative to `TextEncoder`: BERT, built from this package's attention."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from detr_mini.attention.multihead import MultiHeadAttention, blocked_by_padding
from detr_mini.attention.positions import LearnedPositions1d
from detr_mini.errors import CheckpointError, ConfigError
from detr_mini.text.minilm import minilm_weights

EPS = 1e-12


class PostNormLayer(nn.Module):
    """norm(x + attention(x)), then norm(x + feedforward(x)) (post-norm: Vaswani et al. 2017, sec. 3.1)."""

    def __init__(self, dim: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, heads)
        self.feedforward = nn.Sequential(nn.Linear(dim, feedforward), nn.GELU(), nn.Linear(feedforward, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)

    def forward(self, x: Float[Tensor, "b n c"], blocked: Bool[Tensor, "#b #n n"] | None) -> Float[Tensor, "b n c"]:
        """`blocked` as in `MultiHeadAttention`."""
        x = self.norm1(x + self.attention(x, x, x, blocked))
        return self.norm2(x + self.feedforward(x))


class Bert(nn.Module):
    """BERT (Devlin et al. 2019) for one sentence: embedding plus learned positions, a norm, post-norm layers."""

    def __init__(
        self,
        *,
        vocabulary: int = 30_522,
        dim: int = 384,
        heads: int = 12,
        feedforward: int = 1536,
        layers: int = 6,
        max_tokens: int = 512,
    ) -> None:
        """The defaults are the sizes of all-MiniLM-L6-v2."""
        super().__init__()
        self.dim, self.max_tokens = dim, max_tokens
        self.word_embedding = nn.Embedding(vocabulary, dim)
        self.position_embedding = LearnedPositions1d(max_tokens, dim)
        self.norm = nn.LayerNorm(dim, EPS)
        self.layers = nn.ModuleList(PostNormLayer(dim, heads, feedforward) for _ in range(layers))

    def forward(
        self, ids: Int[Tensor, "c t"], padding_mask: Bool[Tensor, "c t"], need_weights: bool = False
    ) -> tuple[Float[Tensor, "c t d"], list[Float[Tensor, "c h t t"]]]:
        """As in `TextEncoder`, but the vectors on padding are arbitrary."""
        x = self.norm(self.word_embedding(ids) + self.position_embedding(ids.shape[1]))
        blocked, weights = blocked_by_padding(padding_mask), []
        layer: Any
        for layer in self.layers:
            if need_weights:
                weights.append(layer.attention.weights(x, x, blocked))
            x = layer(x, blocked)
        return x, weights


class PretrainedTextEncoder(nn.Module):
    """all-MiniLM-L6-v2 (22.6 million parameters) with its vectors projected to `dim`; same interface as `TextEncoder`.

    Its ids are those of `WordPieceTokenizer`. `weights`: packaged, published (see `minilm`) or none (random, for a
    checkpoint that is loaded afterwards). `frozen`: only the projection learns. ConfigError for another vocabulary.
    """

    def __init__(self, *, vocabulary: int, dim: int, weights: str, frozen: bool = True) -> None:
        super().__init__()
        self.pretrained = Bert()
        known = self.pretrained.word_embedding.num_embeddings
        if vocabulary != known:
            raise ConfigError(
                f"the pretrained text encoder reads {known:,} word pieces, and the tokeniser has {vocabulary:,} "
                "tokens; set data.tokenizer.kind=pretrained"
            )
        if weights != "none":
            try:
                self.pretrained.load_state_dict(minilm_weights(weights))
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1].strip()
                raise CheckpointError(f"the {weights} weights are not all-MiniLM-L6-v2's ({reason})") from error
        self.pretrained.requires_grad_(not frozen)
        self.project = nn.Sequential(nn.Linear(self.pretrained.dim, dim), nn.LayerNorm(dim))
        self.max_tokens = self.pretrained.max_tokens

    def words(self, ids: Int[Tensor, "c t"]) -> Float[Tensor, "c t e"]:
        """The embedding of each word piece, before any layer."""
        return self.pretrained.word_embedding(ids)

    def forward(
        self, ids: Int[Tensor, "c t"], padding_mask: Bool[Tensor, "c t"], need_weights: bool = False
    ) -> tuple[Float[Tensor, "c t d"], list[Float[Tensor, "c h t t"]]]:
        """See `TextEncoder`. ValueError for more than `max_tokens` tokens."""
        if ids.shape[1] > self.max_tokens:
            raise ValueError(f"{ids.shape[1]} tokens are more than the {self.max_tokens} that this encoder takes")
        x, weights = self.pretrained(ids, padding_mask, need_weights)
        return self.project(x).masked_fill(padding_mask[..., None], 0.0), weights
