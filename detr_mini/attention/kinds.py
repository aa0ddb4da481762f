"""The kinds of attention, as modules that take each head's queries, keys and values, and a mask.

A new kind is a class here and a line in `KINDS`. A new similarity of query and key is a function in `core` and a line
in `SIMILARITIES`; every kind then takes it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detr_mini.attention.core import (
    SIMILARITIES,
    Pair,
    Similarity,
    attend,
    attention_weights,
    cosine,
    scaled_dot,
    similarities,
)
from detr_mini.attention.efficient import Linformer, orthogonal_features, performer, windowed
from detr_mini.attention.positions import DistanceBias
from detr_mini.errors import ConfigError, nearest


class LearnedCosine(nn.Module):
    """`cosine` with a learned temperature per head (Liu et al. 2022, "Swin V2"), at first 0.1 and at least 0.01."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.full((heads, 1, 1), 0.1).log())

    def forward(self, query: Float[Tensor, "b h m c"], key: Float[Tensor, "b h n c"]) -> Pair:
        """See `cosine`."""
        scaled = cosine(query, key, self.log_temperature.exp().clamp(min=0.01))
        return scaled[0].to(query.dtype), scaled[1].to(key.dtype)


def similarity_named(name: str, heads: int) -> Similarity:
    """scaled_dot, cosine (with a learned temperature per head), root_length or dot; ConfigError for other names."""
    if name not in SIMILARITIES:
        raise ConfigError(_unknown("similarity", name, SIMILARITIES))
    return LearnedCosine(heads) if name == "cosine" else SIMILARITIES[name]


class Dense(nn.Module):
    """Exact attention over all pairs. Masks: any. `dropout`: in training, how likely a weight is set to zero."""

    def __init__(self, similarity: Similarity, dropout: float = 0.0) -> None:
        super().__init__()
        self.similarity, self.dropout = similarity, dropout

    def forward(
        self,
        query: Float[Tensor, "b h m c"],
        key: Float[Tensor, "b h n c"],
        value: Float[Tensor, "b h n d"],
        blocked: Bool[Tensor, "#b #h #m n"] | None = None,
        size: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "b h m d"]:
        """`blocked` is True where a query must not look."""
        return attend(query, key, value, blocked, self.dropout if self.training else 0.0, self.similarity)

    def weights(
        self,
        query: Float[Tensor, "b h m c"],
        key: Float[Tensor, "b h n c"],
        blocked: Bool[Tensor, "#b #h #m n"] | None = None,
    ) -> Float[Tensor, "b h m n"]:
        """Where each head looks in `forward`."""
        return attention_weights(similarities(query, key, self.similarity), blocked)


class BiasedByDistance(Dense):
    """Exact attention within a sequence; a learned bias per head and distance is added to the scaled dot products.

    Only in the readable form, since sentences are short. Masks: any.
    """

    def __init__(self, bias: DistanceBias) -> None:
        super().__init__(scaled_dot)
        self.bias = bias

    def forward(
        self,
        query: Float[Tensor, "b h n c"],
        key: Float[Tensor, "b h n c"],
        value: Float[Tensor, "b h n d"],
        blocked: Bool[Tensor, "#b #h #m n"] | None = None,
        size: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "b h n d"]:
        """`blocked` is True where a query must not look."""
        return self.weights(query, key, blocked).to(value.dtype) @ value

    def weights(
        self,
        query: Float[Tensor, "b h n c"],
        key: Float[Tensor, "b h n c"],
        blocked: Bool[Tensor, "#b #h #m n"] | None = None,
    ) -> Float[Tensor, "b h n n"]:
        """Where each head looks in `forward`."""
        return attention_weights(similarities(query, key) + self.bias(query.shape[2]), blocked)


class Windowed(nn.Module):
    """See `windowed`. Masks: padding."""

    def __init__(self, similarity: Similarity, *, window: int = 4) -> None:
        super().__init__()
        if window < 1:
            raise ConfigError(f"model.encoder.window is {window}; it must be at least 1")
        self.similarity, self.window = similarity, window

    def forward(
        self,
        query: Float[Tensor, "b h n c"],
        key: Float[Tensor, "b h n c"],
        value: Float[Tensor, "b h n d"],
        blocked: Bool[Tensor, "#b 1 1 n"] | None = None,
        size: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "b h n d"]:
        """`size`: (h, w) if the elements are the cells of a map."""
        padding = None if blocked is None else blocked[:, :, 0]
        return windowed(query, key, value, padding, window=self.window, size=size, similarity=self.similarity)


class LowRank(nn.Module):
    """See `Linformer`. Masks: padding."""

    def __init__(self, similarity: Similarity, *, size: Sequence[int] = (64, 64), rank: int = 64) -> None:
        super().__init__()
        if len(size) != 2:
            raise ConfigError(f"model.encoder.size is {list(size)}; it must be two numbers, [height, width] in cells")
        self.similarity, self.linformer = similarity, Linformer(size, rank)

    def forward(
        self,
        query: Float[Tensor, "b h m c"],
        key: Float[Tensor, "b h n c"],
        value: Float[Tensor, "b h n d"],
        blocked: Bool[Tensor, "#b 1 1 n"] | None = None,
        size: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "b h m d"]:
        """`size`: (h, w) if the elements are the cells of a map."""
        padding = None if blocked is None else blocked[:, 0, 0].expand(key.shape[0], -1)
        return self.linformer(query, key, value, padding, size, self.similarity)


class RandomFeatures(nn.Module):
    """See `performer`. Masks: padding. The features are drawn once, with a fixed seed, and saved in checkpoints."""

    features: Tensor

    def __init__(self, similarity: Similarity, *, dim: int, heads: int, features: int = 64) -> None:
        super().__init__()
        self.similarity = similarity
        drawn = orthogonal_features(features, dim // heads, torch.Generator().manual_seed(0))
        self.register_buffer("features", drawn.float())

    def forward(
        self,
        query: Float[Tensor, "b h m c"],
        key: Float[Tensor, "b h n c"],
        value: Float[Tensor, "b h n d"],
        blocked: Bool[Tensor, "#b 1 1 n"] | None = None,
        size: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "b h m d"]:
        """In float32 at any training precision, since exponentials of random projections span many magnitudes."""
        padding = None if blocked is None else blocked[:, :, 0]
        with torch.autocast(query.device.type, enabled=False):
            return performer(query, key, value, self.features, padding, self.similarity)


KINDS: Mapping[str, Callable[..., nn.Module]] = {
    "dense": Dense,
    "windowed": Windowed,
    "linformer": LowRank,
    "performer": RandomFeatures,
}
"""Every kind that `model.encoder.attention` may name. Its arguments are given by name, as far as it takes them:
`similarity`, and the layer's `dim` and `heads`. Its other keyword-only arguments are settings below `model.encoder`,
each with its line in configs/model/mini.yaml."""


def settings_of(kind: str) -> dict[str, Any]:
    """The settings of a kind, with their defaults."""
    parameters = inspect.signature(KINDS[kind]).parameters.values()
    own = (p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("dim", "heads"))
    return {parameter.name: parameter.default for parameter in own}


def attention_named(kind: str, *, dim: int, heads: int, similarity: str = "scaled_dot", **settings: Any) -> nn.Module:
    """The kind of that name; ConfigError for a name that is not in `KINDS`.

    `settings` may hold those of every kind, as a config does, and each kind takes its own; ConfigError for one that no
    kind has.
    """
    if kind not in KINDS:
        raise ConfigError(_unknown("attention", kind, KINDS))
    known = {name for other in KINDS for name in settings_of(other)}
    for name in settings:
        if name not in known:
            raise ConfigError(f"no attention has the setting '{name}'{nearest(name, known)}; remove it")
    offered = {"similarity": similarity_named(similarity, heads), "dim": dim, "heads": heads, **settings}
    takes = inspect.signature(KINDS[kind]).parameters
    return KINDS[kind](**{name: value for name, value in offered.items() if name in takes})


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    return f"{what} '{name}' does not exist{nearest(name, known)}; the kinds are {', '.join(known)}"
