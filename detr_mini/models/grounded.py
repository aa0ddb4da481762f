"""A detector that takes captions.

image -> MiniDETR -> object queries with boxes, once per image; caption -> text encoder -> words;
queries and words -> fusion layers -> a logit for each (query, word) pair: does this word refer to this object?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from detr_mini.attention.pairwise import FEATURES, likeness, pair_features
from detr_mini.attention.positions import sine_box_code
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.errors import ConfigError
from detr_mini.models.denoising import DenoisingQueries
from detr_mini.models.mini import MiniDETR
from detr_mini.models.mlp import mlp
from detr_mini.models.word_query_fusion import Connectives, FusionLayer, word_inputs_of
from detr_mini.structures import TAGS, Captions, DetectorOutput, GroundingOutput, PhraseFound
from detr_mini.text.bert import PretrainedTextEncoder
from detr_mini.text.encoder import TextEncoder
from detr_mini.text.tokenizers import Encoding, pad

GROUPS, LEAST = 4, 16
"""Length buckets for captions, to limit padding: their number at most, and the captions in each at least."""


def length_buckets(captions: int, device: torch.device) -> int:
    """How many length buckets captions are divided into: one on a GPU, where more operations cost more than padding."""
    return min(GROUPS, max(1, captions // LEAST)) if device.type == "cpu" else 1


def phrases_of(tags: Sequence[int]) -> list[list[int]]:
    """The tokens of each phrase that asks for objects, from the tokens' tags. A phrase lasts until the next begins."""
    phrases: list[list[int]] = []
    for token, tag in enumerate(tags):
        if TAGS[tag] == "begin":
            phrases.append([token])
        elif TAGS[tag] == "inside" and phrases:
            phrases[-1].append(token)
    return phrases


def phrase_numbers(tags: Int[Tensor, "c t"]) -> Int[Tensor, "c t"]:
    """`phrases_of` in one formula for several captions: the number of each token's phrase, -1 where it has none."""
    begins, inside = (tags == TAGS.index(name) for name in ("begin", "inside"))
    number = begins.long().cumsum(1)
    return torch.where(begins | inside, number, 0) - 1


def merged(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Spans of tokens as spans of words: spans that touch or have one blank between them are joined."""
    joined: list[tuple[int, int]] = []
    for begin, end in spans:
        if joined and begin <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return tuple(joined)


def one_caption(encoding: Encoding, images: int) -> Captions:
    """The same caption for each of `images` images."""
    ids, padding = pad([encoding] * images)
    return Captions(ids, padding, torch.arange(images), (encoding.spans,) * images)


class GroundedDETR(MiniDETR):
    """`MiniDETR` with a text encoder and fusion layers. Without captions it is the same detector."""

    def __init__(
        self,
        *,
        vocabulary: int,
        joint: Mapping[str, Any],
        attributes: int = 0,
        text: Mapping[str, Any] | None = None,
        pretrained_text: Mapping[str, Any] | None = None,
        dim: int = 128,
        **kwargs: Any,
    ) -> None:
        """`text`: settings of `TextEncoder`, or `pretrained_text`: of `PretrainedTextEncoder`. `joint`: `layers`,
        `width`, `heads`, `pair_dim` and `likenesses` of the fusion layers. `attributes`: their number in the training
        data; a head predicts them, so that queries encode them. `kwargs`: see `MiniDETR`.
        """
        super().__init__(dim=dim, **kwargs)
        of_images = set(self._modules)
        if (text is None) == (pretrained_text is None):
            raise ConfigError("set either model.text or model.pretrained_text, and the other to null")
        layer = {"width": 32, "heads": 4, "pair_dim": 16, **joint}
        layers, self.likenesses = layer.pop("layers", 5), layer.pop("likenesses", 8)
        if layers < 1:
            raise ConfigError(f"model.joint.layers is {layers}; it must be at least 1")
        width, pair_dim, ordered = layer["width"], layer["pair_dim"], (text or {}).get("positions") != "none"
        self.text: TextEncoder | PretrainedTextEncoder
        if pretrained_text is None:
            self.text = TextEncoder(vocabulary=vocabulary, dim=dim, **(text or {}))
            embedding: nn.Module = nn.Embedding(vocabulary, dim)
        else:  # its own embedding table serves the words: a second one would be most of the model
            self.text = PretrainedTextEncoder(vocabulary=vocabulary, dim=dim, **pretrained_text)
            known = self.text.pretrained.dim
            embedding = nn.Sequential(nn.LayerNorm(known), nn.Linear(known, dim))
        self.connectives = Connectives(embedding, dim, ordered=ordered)
        self.tag = mlp([dim, dim, len(TAGS)])
        self.thing, self.place = nn.Linear(dim, dim), mlp([2 * dim, dim, dim])
        self.alike = nn.Linear(dim, self.likenesses * 16)
        self.pairs = mlp([FEATURES + self.likenesses, 64, pair_dim])
        self.pairs_straight = nn.Linear(FEATURES + self.likenesses, pair_dim)
        self.of_thing, self.of_word = nn.Linear(dim, 2 * width), nn.Linear(dim, 2 * width)
        self.first = nn.Linear(2 * width, width)
        self.joint = nn.ModuleList(FusionLayer(dim, ordered=ordered, **layer) for _ in range(layers))
        self.norm, self.speaks = nn.LayerNorm(width), nn.Linear(width, 1)
        self.attributes = nn.Linear(dim, attributes) if attributes else None
        nn.init.constant_(self.speaks.bias, -3.0)
        self.caption_parts = tuple(name for name in self._modules if name not in of_images)
        """Names of the parts that only captions need."""

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        padding_mask: Bool[Tensor, "b h w"] | None = None,
        *,
        denoising: DenoisingQueries | None = None,
        need_attention: bool = False,
        captions: Captions | None = None,
    ) -> DetectorOutput:
        """See `MiniDETR`. With at least one caption the output has `grounding`."""
        output = super().forward(images, padding_mask, denoising=denoising, need_attention=need_attention)
        if captions is None or not len(captions.token_ids):
            return output
        return replace(output, grounding=self.ground(output, captions))

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest caption that the text encoder takes."""
        return int(self.text.max_tokens)

    @property
    def token_rows(self) -> tuple[str, ...]:
        """Names of the parameters with one row per token of the tokeniser."""
        tables = {"text.embedding": self.text, "connectives.embedding": self.connectives}
        own = (name for name, part in tables.items() if isinstance(getattr(part, "embedding", None), nn.Embedding))
        return tuple(f"{name}.weight" for name in own)

    def left_out(self, captions: Captions | None) -> Sequence[nn.Parameter]:
        """Without captions all that read them; without the truths' attributes the head that predicts these."""
        if captions is None or not len(captions.token_ids):
            return [p for name in self.caption_parts for p in getattr(self, name).parameters()]
        return [*self.attributes.parameters()] if self.attributes is not None and captions.attributes is None else []

    def ground(self, output: DetectorOutput, captions: Captions) -> GroundingOutput:
        """Which queries of its image each caption refers to. Captions may share an image."""
        assert output.queries is not None
        queries, pairs = self.queries_and_pairs(output.queries, output.boxes.detach())
        visible = output.query_visible
        hidden = queries.new_zeros(queries.shape[:2], dtype=torch.bool) if visible is None else ~visible
        lengths = torch.tensor([len(spans) for spans in captions.spans])
        groups = lengths.argsort().tensor_split(length_buckets(len(lengths), captions.token_ids.device))
        logits: list[list[Tensor]] = []
        tags, longest = [], captions.token_ids.shape[1]
        for group in groups:
            t = max(int(lengths[group].max()), 1)
            rows = group.to(captions.token_ids.device)
            ids, padding = captions.token_ids[rows, :t], captions.padding_mask[rows, :t]
            image = captions.caption_image[rows]
            words, tag = self._words_once(ids, padding)
            pair_logits = self.pair_logits(queries[image], pairs[image], hidden[image], words, padding)
            logits.append([functional.pad(each, (0, longest - t)) for each in pair_logits])
            tags.append(functional.pad(tag, (0, 0, 0, longest - t)))
        back = torch.cat(groups).argsort().to(captions.token_ids.device)
        layers = tuple(torch.cat(parts)[back] for parts in zip(*logits, strict=True))
        looks = self.attributes(output.queries).float() if self.training and self.attributes is not None else None
        return GroundingOutput(layers if self.training else layers[-1:], torch.cat(tags)[back], looks)

    def queries_and_pairs(
        self, queries: Float[Tensor, "b q d"], boxes: Float[Tensor, "b q 4"]
    ) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b q p k"]]:
        """What captions need of the objects of an image: their vectors with their places, and features of each pair."""
        vectors = self.thing(queries)
        like = likeness(self.alike(vectors).unflatten(-1, (self.likenesses, -1)))
        between = torch.cat([pair_features(boxes), like], -1).to(vectors.dtype)
        pairs = (self.pairs(between) + self.pairs_straight(between)).transpose(2, 3)
        return vectors + self.place(sine_box_code(boxes, 2 * self.dim).to(vectors.dtype)), pairs

    def words_and_tags(
        self, ids: Int[Tensor, "c t"], padding_mask: Bool[Tensor, "c t"]
    ) -> tuple[Float[Tensor, "c t d"], Float[Tensor, "c t g"]]:
        """The vector of each word, and its tag logits. They depend on the caption alone."""
        words, _ = self.text(ids, padding_mask)
        tags = self.tag(words)
        outside = tags.detach().float().log_softmax(-1)[..., 0]
        alone = self.text.words(ids) if isinstance(self.text, PretrainedTextEncoder) else ids
        return words + self.connectives(alone, outside, padding_mask), tags

    def _words_once(
        self, ids: Int[Tensor, "c t"], padding_mask: Bool[Tensor, "c t"]
    ) -> tuple[Float[Tensor, "c t d"], Float[Tensor, "c t g"]]:
        """`words_and_tags`, where several images share captions: each is encoded once. A GPU would have to wait for
        the number of different captions, and training would add gradients in another order."""
        if self.training or ids.device.type != "cpu":
            return self.words_and_tags(ids, padding_mask)
        different, place = torch.stack([ids, padding_mask.long()], 1).unique(dim=0, return_inverse=True)
        if len(different) == len(ids):
            return self.words_and_tags(ids, padding_mask)
        words, tags = self.words_and_tags(different[:, 0], different[:, 1].bool())
        return words[place], tags[place]

    def pair_logits(
        self,
        queries: Float[Tensor, "c q d"],
        pairs: Float[Tensor, "c q p k"],
        hidden: Bool[Tensor, "c q"],
        words: Float[Tensor, "c t d"],
        padding_mask: Bool[Tensor, "c t"],
    ) -> list[Float[Tensor, "c q t"]]:
        """Logits that a word refers to a query's object, before the layers and after each."""
        words = words.to(queries.dtype)
        state = self.first(self.of_thing(queries)[:, :, None] * self.of_word(words)[:, None])
        logits = [self.speaks(self.norm(state))[..., 0]]
        inputs = word_inputs_of(cast(list[FusionLayer], list(self.joint)), words, padding_mask)
        for layer, own in zip(self.joint, inputs, strict=True):
            state = layer(state, logits[-1], own, queries, pairs, hidden)
            logits.append(self.speaks(self.norm(state))[..., 0])
        return logits

    def read(
        self, output: DetectorOutput, captions: Captions, sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[PhraseFound, ...]]:
        """See `read_phrases`."""
        return read_phrases(output, captions, sizes)


def read_phrases(
    output: DetectorOutput, captions: Captions, sizes: Sequence[tuple[int, int]]
) -> list[tuple[PhraseFound, ...]]:
    """The phrases that each caption asks for, as predicted, with a score for every query: the probability of the mean
    logit of the phrase's words. `sizes`: (height, width) of each original image.
    """
    assert output.grounding is not None
    logits, tags = output.grounding.logits[-1].float().cpu(), output.grounding.tags.argmax(-1).cpu()
    scale = torch.tensor([[w, h, w, h] for h, w in sizes], dtype=torch.float32)[:, None]
    boxes = cxcywh_to_xyxy(output.boxes.float().cpu()) * scale
    # of each image a tensor of its own: a view would take the whole batch along to other processes
    own_boxes = [own.clone() for own in torch.minimum(boxes.clamp(min=0), scale)]
    found = []
    if output.query_visible is not None:  # a query that stands for padding answers nothing
        hidden = ~output.query_visible.cpu()[captions.caption_image.cpu()]
        logits = logits.masked_fill(hidden[:, :, None], -torch.inf)
    for row, (image, spans) in enumerate(zip(captions.caption_image.tolist(), captions.spans, strict=True)):
        phrases = []
        for tokens in phrases_of(tags[row, : len(spans)].tolist()):
            scores = logits[row][:, tokens].mean(1).sigmoid()
            phrases.append(PhraseFound(merged([spans[token] for token in tokens]), own_boxes[image], scores))
        found.append(tuple(phrases))
    return found
