"""The detector that takes sentences: things first, words second, then both in one set.

image -> MiniDETR -> object queries with boxes, once an image; caption -> text encoder -> words;
queries and words -> joint layers -> a logit for each query and word: does this word speak of this thing?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detr_mini.attention.pairwise import PairwiseAttention, barred_where, pair_features
from detr_mini.attention.positions import sine_box_code
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.models.denoising import DenoisingQueries
from detr_mini.models.mini import MiniDETR
from detr_mini.models.mlp import mlp
from detr_mini.structures import (
    Captions,
    DetectorOutput,
    GroundingOutput,
    PhraseFound,
)
from detr_mini.text.encoder import TextEncoder

TAGS = ("other", "begin", "inside", "anchor")
"""What a word is in its caption: of no phrase, the first or a later word of what is asked for, of an anchor."""
FEATURES = 14


def between_words(pairs: Float[Tensor, "c q q p"], spoken: Float[Tensor, "c q t"]) -> Float[Tensor, "c q t p"]:
    """What lies between a thing and a word: what lies between it and the things of which the word speaks, on average.

    `spoken`: logits of which word speaks of which thing, as the layer before has it. So a thing that looks at the word
    "star" sees where the star lies.
    """
    share = spoken.sigmoid()
    share = share / (share.sum(1, keepdim=True) + 0.1)
    return share.transpose(1, 2)[:, None] @ pairs


def phrases_of(tags: Sequence[int]) -> list[list[int]]:
    """The tokens of each phrase that is asked for, from each token's tag: a phrase goes on until the next begins."""
    phrases: list[list[int]] = []
    for token, tag in enumerate(tags):
        if TAGS[tag] == "begin":
            phrases.append([token])
        elif TAGS[tag] == "inside" and phrases:
            phrases[-1].append(token)
    return phrases


def merged(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Spans of tokens as spans of words: those that touch, or stand a blank apart, become one."""
    joined: list[tuple[int, int]] = []
    for begin, end in spans:
        if joined and begin <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return tuple(joined)


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
        pairs: Float[Tensor, "c q n p"],
        barred: Float[Tensor, "c 1 1 n"],
    ) -> Float[Tensor, "c n d"]:
        x = x + self.attention(self.norm1(x), pairs, barred)
        q = pairs.shape[1]
        visible = (barred[:, 0, 0, :q, None] == 0).to(x.dtype)
        total = (nn.functional.relu(self.norm2(x[:, :q])) * visible).sum(1, keepdim=True) / q**0.5
        x = x + self.count(total)
        return x + self.feedforward(self.norm3(x))


class GroundedDETR(MiniDETR):
    """`MiniDETR` with a text encoder and joint layers. Without captions it is the same detector."""

    def __init__(
        self, *, vocabulary: int, text: Mapping[str, Any], joint: Mapping[str, Any], dim: int = 128, **kwargs: Any
    ) -> None:
        """`text`: settings of `TextEncoder`; `joint`: `layers`, `heads`, `feedforward` and `pair_dim` of the joint
        layers; `kwargs`: of `MiniDETR`.
        """
        super().__init__(dim=dim, **kwargs)
        layer = {"heads": 4, "feedforward": 384, "pair_dim": 32, **joint}
        layers = layer.pop("layers", 5)
        self.text = TextEncoder(vocabulary=vocabulary, dim=dim, **text)
        self.pairs = mlp([FEATURES, 64, layer["pair_dim"]])
        self.place = mlp([2 * dim, dim, dim])
        self.thing, self.pooled = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.kind = nn.Parameter(torch.zeros(2, dim))
        self.joint = nn.ModuleList(JointLayer(dim, **layer) for _ in range(layers))
        self.joint_norm = nn.LayerNorm(dim)
        self.of_query, self.of_word = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.tensor(-3.0))
        self.offset = nn.Linear(dim, 2)
        self.tag = mlp([dim, dim, len(TAGS)])

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        padding_mask: Bool[Tensor, "b h w"] | None = None,
        denoising: DenoisingQueries | None = None,
        need_attention: bool = False,
        captions: Captions | None = None,
    ) -> DetectorOutput:
        """As `MiniDETR`; with `captions`, the output carries what they speak of."""
        output = super().forward(images, padding_mask, denoising, need_attention)
        return output if captions is None else replace(output, grounding=self.ground(output, captions))

    def ground(self, output: DetectorOutput, captions: Captions) -> GroundingOutput:
        """What each caption speaks of, among the queries of its image. Many captions share one image."""
        assert output.queries is not None
        boxes, dim = output.boxes.detach(), self.dim
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
        outputs = [self.spoken(self.joint_norm(x), q)]
        states = []
        for layer in self.joint:
            x = layer(x, torch.cat([pairs, between_words(pairs, outputs[-1])], 2), barred)
            states.append(self.joint_norm(x))
            outputs.append(self.spoken(states[-1], q))
        logits = outputs if self.training else outputs[-1:]
        offsets = self.offset(torch.stack(states)[:, :, :q])
        return GroundingOutput(tuple(logits), tuple(offsets), tags)

    def spoken(self, x: Float[Tensor, "c n d"], q: int) -> Float[Tensor, "c {q} t"]:
        """Logits of whether a word speaks of a query's thing; the first `q` elements are queries, the others words."""
        of_query, of_word = self.of_query(x[:, :q]), self.of_word(x[:, q:])
        return of_query @ of_word.transpose(1, 2) / x.shape[-1] ** 0.5 + self.bias

    def read(
        self, output: DetectorOutput, captions: Captions, sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[PhraseFound, ...]]:
        """What each caption asks for, as the model reads it, and how well every query fits: its score is the mean logit
        of the phrase's words as a probability. `sizes`: (height, width) of each image's original.
        """
        assert output.grounding is not None
        logits, tags = output.grounding.logits[-1].float().cpu(), output.grounding.tags.argmax(-1).cpu()
        scale = torch.tensor([[w, h, w, h] for h, w in sizes], dtype=torch.float32)[:, None]
        boxes = cxcywh_to_xyxy(output.boxes.float().cpu()) * scale
        boxes = torch.minimum(boxes.clamp(min=0), scale)
        found = []
        for row, (image, spans) in enumerate(zip(captions.caption_image.tolist(), captions.spans, strict=True)):
            phrases = []
            for tokens in phrases_of(tags[row, : len(spans)].tolist()):
                scores = logits[row][:, tokens].mean(1).sigmoid()
                phrases.append(PhraseFound(merged([spans[token] for token in tokens]), boxes[image], scores))
            found.append(tuple(phrases))
        return found
