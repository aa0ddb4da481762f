"""What a decoder looks at, and the ways of looking at it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detr_mini.attention.deformable import DeformableAttention
from detr_mini.attention.kinds import attention_named
from detr_mini.attention.multihead import MultiHeadAttention, blocked_by_padding
from detr_mini.errors import ConfigError, nearest
from detr_mini.models.box_attention import hat_weights


@dataclass(frozen=True)
class Memory:
    """Tokens with their places, the cells of a map row by row, and a finer map to look at closely."""

    tokens: Float[Tensor, "b n c"]
    keys: Float[Tensor, "b n c"]
    """Tokens with their positions."""
    size: tuple[int, int]
    """Height and width of the map."""
    padding_mask: Bool[Tensor, "b h w"] | None
    cells: Float[Tensor, "b 2"]
    """(width, height) in cells of each image without its padding."""
    fine: Float[Tensor, "b s hh ww"]
    fine_cells: Float[Tensor, "b 2"]

    @property
    def blocked(self) -> Bool[Tensor, "b 1 n"] | None:
        """The padding, as attention has it."""
        return None if self.padding_mask is None else blocked_by_padding(self.padding_mask.flatten(1))


class DenseCross(nn.Module):
    """Each query looks at every token."""

    def __init__(self, dim: int, heads: int, similarity: str) -> None:
        super().__init__()
        kind = attention_named("dense", dim=dim, heads=heads, similarity=similarity)
        self.attention = MultiHeadAttention(dim, heads, attention=kind)

    def forward(
        self, query: Float[Tensor, "b q c"], boxes: Float[Tensor, "b q 4"], memory: Memory
    ) -> Float[Tensor, "b q c"]:
        """`query` with its position; `boxes` are of no matter here."""
        return self.attention(query, memory.keys, memory.tokens, memory.blocked)

    def where(
        self, query: Float[Tensor, "b q c"], boxes: Float[Tensor, "b q 4"], memory: Memory
    ) -> Float[Tensor, "b q n"]:
        """Where each query looks in `forward`, mean over the heads."""
        return self.attention.weights(query, memory.keys, memory.blocked).mean(1)


class DeformableCross(nn.Module):
    """Each query looks at a few places that it chooses around its box."""

    def __init__(self, dim: int, heads: int, points: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(dim, heads, levels=1, points=points)

    def forward(
        self, query: Float[Tensor, "b q c"], boxes: Float[Tensor, "b q 4"], memory: Memory
    ) -> Float[Tensor, "b q c"]:
        """`query` with its position; `boxes` (cxcywh) in [0, 1] of the image without padding."""
        tokens = memory.tokens.transpose(1, 2).unflatten(2, memory.size)
        padding = None if memory.padding_mask is None else [memory.padding_mask]
        return self.attention(query, self._reference(boxes, memory), [tokens], padding)

    def where(
        self, query: Float[Tensor, "b q c"], boxes: Float[Tensor, "b q 4"], memory: Memory
    ) -> Float[Tensor, "b q n"]:
        """How much each query takes from each token in `forward`, mean over the heads."""
        h, w = memory.size
        places, weights = self.attention.looks(query, self._reference(boxes, memory), [(h, w)])
        x, y = (places.flatten(2, 4) * places.new_tensor([w, h])).unbind(-1)
        weights = weights.flatten(2, 4) / self.attention.heads
        rows = hat_weights(y, h) * weights[..., None]
        return torch.einsum("bqpy,bqpx->bqyx", rows, hat_weights(x, w)).flatten(2)

    @staticmethod
    def _reference(boxes: Float[Tensor, "b q 4"], memory: Memory) -> Float[Tensor, "b q 1 4"]:
        h, w = memory.size
        visible = torch.stack([memory.cells[:, 0] / w, memory.cells[:, 1] / h], -1)
        return (boxes * visible.repeat(1, 2)[:, None])[:, :, None]


KINDS = ("dense", "deformable")


def cross_attention_named(kind: str, *, dim: int, heads: int, similarity: str, points: int = 4) -> nn.Module:
    """dense, or deformable with `points` samples a head; ConfigError for another kind."""
    if kind == "dense":
        return DenseCross(dim, heads, similarity)
    if kind == "deformable":
        return DeformableCross(dim, heads, points)
    raise ConfigError(
        f"cross-attention '{kind}' does not exist{nearest(kind, KINDS)}; the kinds are {', '.join(KINDS)}"
    )
