"""The detector that takes sentences: things first, words second, then both in one set.

image -> MiniDETR -> object queries with boxes, once an image; caption -> text encoder -> words;
queries and words -> joint layers -> a logit for each query and word: does this word speak of this thing?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detr_mini.attention.pairwise import PairwiseAttention, barred_where, pair_features
from detr_mini.attention.positions import sine_box_code
from detr_mini.models.denoising import DenoisingQueries
from detr_mini.models.mini import MiniDETR
from detr_mini.models.mlp import mlp
from detr_mini.structures import Captions, Categories, Detections, DetectorOutput, GroundingOutput, PackedTargets
from detr_mini.text.encoder import TextEncoder

TAGS = ("other", "begin", "inside", "anchor")
"""What a word is in its caption: of no phrase, the first or a later word of what is asked for, of an anchor."""
FEATURES = 14


class JointLayer(nn.Module):
    """Pre-norm: queries and words among themselves, a sum over the queries back into each, feed-forward."""

    def __init__(self, dim: int, heads: int, feedforward: int, pair_dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = PairwiseAttention(dim, heads, pair_dim)
        self.count = mlp([dim, dim // 2, dim])
        self.feedforward = mlp([dim, feedforward, dim])

    def forward(
        self,
        x: Float[Tensor, "c n d"],
        pairs: Float[Tensor, "c q q p"],
        barred: Float[Tensor, "c 1 1 n"],
    ) -> Float[Tensor, "c n d"]:
        x = x + self.attention(self.norm1(x), pairs, barred)
        q = pairs.shape[1]
        visible = (barred[:, 0, 0, :q, None] == 0).to(x.dtype)
        total = (nn.functional.relu(self.norm2(x[:, :q])) * visible).sum(1, keepdim=True) / q**0.5
        x = x + self.count(total)
        return x + self.feedforward(self.norm3(x))


class GroundedDETR(nn.Module):
    """`detector` with a text encoder and `layers` joint layers. Without captions it is its detector."""

    def __init__(
        self,
        *,
        backbone: nn.Module,
        num_classes: int,
        vocabulary: int,
        detector: Mapping[str, Any],
        text: Mapping[str, Any],
        heads: int = 4,
        feedforward: int = 384,
        layers: int = 5,
        pair_dim: int = 32,
    ) -> None:
        super().__init__()
        self.detector = MiniDETR(backbone=backbone, num_classes=num_classes, **detector)
        dim = self.detector.dim
        self.text = TextEncoder(vocabulary=vocabulary, dim=dim, **text)
        self.pairs = mlp([FEATURES, 64, pair_dim])
        self.place = mlp([2 * dim, dim, dim])
        self.thing, self.pooled = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.kind = nn.Parameter(torch.zeros(2, dim))
        self.layers = nn.ModuleList(JointLayer(dim, heads, feedforward, pair_dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.of_query, self.of_word = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.tensor(-3.0))
        self.offset = nn.Linear(dim, 2)
        self.tag = mlp([dim, dim, len(TAGS)])

    @property
    def stride(self) -> int:
        """Images' sides are multiples of it."""
        return self.detector.stride

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        padding_mask: Tensor | None = None,
        denoising: DenoisingQueries | None = None,
        need_attention: bool = False,
        captions: Captions | None = None,
    ) -> DetectorOutput:
        """As `MiniDETR`; with `captions`, the output carries what they speak of."""
        output = self.detector(images, padding_mask, denoising, need_attention)
        return output if captions is None else replace(output, grounding=self.ground(output, captions))

    def ground(self, output: DetectorOutput, captions: Captions) -> GroundingOutput:
        """What each caption speaks of, among the queries of its image. Many captions share one image."""
        assert output.queries is not None
        boxes, dim = output.boxes.detach(), self.detector.dim
        things = self.thing(output.queries) + self.place(sine_box_code(boxes, 2 * dim).to(output.queries.dtype))
        pairs = self.pairs(pair_features(boxes).to(things.dtype))
        image = captions.caption_image
        words, _ = self.text(captions.token_ids, captions.padding_mask)
        tags = self.tag(words)
        pooled = self.pooled(words.sum(1) / (~captions.padding_mask).sum(1, keepdim=True).clamp(min=1))
        things = things[image] + pooled[:, None] + self.kind[0]
        q = things.shape[1]
        x = torch.cat([things, words.to(things.dtype) + self.kind[1]], 1)
        hidden = x.new_zeros(len(x), q, dtype=torch.bool)
        if output.query_visible is not None:
            hidden = ~output.query_visible[image]
        barred = barred_where(torch.cat([hidden, captions.padding_mask], 1), x.dtype)
        pairs = pairs[image]
        layers = []
        for layer in self.layers:
            x = layer(x, pairs, barred)
            layers.append(x)
        y = self.norm(torch.stack(layers if self.training else layers[-1:]))
        logits = self.of_query(y[:, :, :q]) @ self.of_word(y[:, :, q:]).transpose(2, 3) / dim**0.5 + self.bias
        return GroundingOutput(tuple(logits), tuple(self.offset(y[:, :, :q])), tags)

    def noised_truths(
        self, targets: PackedTargets, image_ids: Sequence[int], *, seed: int, step: int
    ) -> DenoisingQueries:
        """See `MiniDETR`."""
        return self.detector.noised_truths(targets, image_ids, seed=seed, step=step)

    def postprocess(
        self, output: DetectorOutput, sizes: Sequence[tuple[int, int]], categories: Categories, limit: int = 100
    ) -> list[Detections]:
        """See `MiniDETR`."""
        return self.detector.postprocess(output, sizes, categories, limit)
