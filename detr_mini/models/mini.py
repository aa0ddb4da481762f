"""The detector one trains: selected queries, dense cross-attention, a close look inside each query's box.

image -> backbone -> one encoder layer at the coarsest stride -> memory (finer by one or two levels)
memory tokens propose -> the best become queries -> decoder layers, each refining the queries' boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detr_mini.attention.encoder import EncoderLayer
from detr_mini.attention.kinds import attention_named
from detr_mini.attention.multihead import MultiHeadAttention, blocked_by_padding, join_blocked
from detr_mini.attention.positions import check_sine_width, sine_box_code, sine_code
from detr_mini.errors import ConfigError
from detr_mini.models.box_attention import BoxAttention
from detr_mini.models.cross_attention import Memory, cross_attention_named
from detr_mini.models.denoising import DenoisingQueries, make_denoising
from detr_mini.models.heads import sigmoid_detections
from detr_mini.models.mlp import mlp
from detr_mini.models.protocol import Backbone, ModelDefaults
from detr_mini.models.queries import PredictionHead, cell_centres, select, visible_size
from detr_mini.structures import (
    AttentionMaps,
    Categories,
    DenoisingOutput,
    Detections,
    DetectorOutput,
    PackedTargets,
    Prediction,
)
from detr_mini.vision.convnet import StandardisedConv
from detr_mini.vision.features import Features
from detr_mini.vision.padding import hide
from detr_mini.vision.pyramid import TopDown


def place_code(places: Float[Tensor, "b n 2"], dim: int) -> Float[Tensor, "b n {dim}"]:
    """Sine code of places (x, y) in [0, 1]."""
    return sine_code(places * (2 * torch.pi), dim // 2, temperature=20.0).flatten(-2)


class DecoderLayer(nn.Module):
    """Pre-norm: queries among themselves, queries over the memory, queries inside their boxes, feed-forward."""

    def __init__(
        self,
        dim: int,
        heads: int,
        feedforward: int,
        *,
        cross_attention: nn.Module,
        similarity: str,
        sample_channels: int,
        points: int,
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.self_attention = MultiHeadAttention(
            dim, heads, attention=attention_named("dense", dim=dim, heads=heads, similarity=similarity)
        )
        self.cross_attention: Any = cross_attention
        self.box_attention = BoxAttention(sample_channels, dim, points=points)
        self.feedforward = mlp([dim, feedforward, dim])

    def forward(
        self,
        query: Float[Tensor, "b q c"],
        position: Float[Tensor, "b q c"],
        boxes: Float[Tensor, "b q 4"],
        memory: Memory,
        blocked: Bool[Tensor, "b qq q"] | None,
    ) -> Float[Tensor, "b q c"]:
        query = self._among_themselves(query, position, blocked)
        query = query + self.cross_attention(self.norms[1](query) + position, boxes, memory)
        query = query + self.box_attention(boxes, memory.fine, memory.fine_cells)
        return query + self.feedforward(self.norms[2](query))

    def where(
        self,
        query: Float[Tensor, "b q c"],
        position: Float[Tensor, "b q c"],
        boxes: Float[Tensor, "b q 4"],
        memory: Memory,
        blocked: Bool[Tensor, "b qq q"] | None,
    ) -> Float[Tensor, "b q n"]:
        """Where in the memory each query looks in `forward`, mean over the heads."""
        query = self._among_themselves(query, position, blocked)
        return self.cross_attention.where(self.norms[1](query) + position, boxes, memory)

    def _among_themselves(
        self, query: Float[Tensor, "b q c"], position: Float[Tensor, "b q c"], blocked: Bool[Tensor, "b qq q"] | None
    ) -> Float[Tensor, "b q c"]:
        y = self.norms[0](query)
        place = y + position
        return query + self.self_attention(place, place, y, blocked)


class MiniDETR(ModelDefaults, nn.Module):
    """See the module's docstring. The backbone's strides run fine to coarse: samples come from the first, the memory is
    at the last but one, the encoder works at the last. Of a single stride, all three use the same map."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        dim: int = 128,
        heads: int = 4,
        feedforward: int = 256,
        encoder: Mapping[str, Any] | None = None,
        decoder: Mapping[str, Any] | None = None,
        similarity: str = "scaled_dot",
        queries: int = 16,
        distinct_iou: float | int | None = None,
        sample_channels: int,
        sample_points: int = 7,
        anchor_cells: float = 3.0,
        box_noise: float = 0.4,
        label_noise: float = 0.2,
    ) -> None:
        """`encoder`: its `layers`, and `attention` with that kind's settings (`attention_named`); `decoder`: its
        `layers` and `cross_attention` (`cross_attention_named`); `similarity`: of all attention (`SIMILARITIES`).
        `distinct_iou`: see `select`. `box_noise`, `label_noise`: of the denoising queries, see `make_denoising`.
        ConfigError for a `dim` that 4 does not divide, and for a decoder without layers.
        """
        super().__init__()
        encoder_kind: dict[str, Any] = {"attention": "dense", **(encoder or {})}
        decoder_kind: dict[str, Any] = {"cross_attention": "dense", **(decoder or {})}
        encoder_layers, decoder_layers = encoder_kind.pop("layers", 1), decoder_kind.pop("layers", 2)
        if decoder_layers < 1:
            raise ConfigError(f"model.decoder.layers is {decoder_layers}; it must be at least 1")
        check_sine_width(dim)
        attention, cross_attention = encoder_kind.pop("attention"), decoder_kind.pop("cross_attention")
        common: dict[str, Any] = {"dim": dim, "heads": heads, "similarity": similarity}
        strides, channels = backbone.strides, backbone.channels
        self.backbone = backbone
        self.num_classes, self.dim, self.anchor_cells = num_classes, dim, anchor_cells
        self.queries, self.distinct_iou = queries, distinct_iou
        self.noise = {"box_noise": box_noise, "label_noise": label_noise}
        self.stride = strides[-1]
        self.input_projection = nn.Conv2d(channels[-1], dim, 1)
        self.encoder = nn.ModuleList(
            EncoderLayer(dim, heads, feedforward, attention_named(attention, **common, **encoder_kind))
            for _ in range(encoder_layers)
        )
        self.top_down = TopDown(channels[-2:-1], dim)
        self.fine_projection = StandardisedConv(channels[0], sample_channels)
        self.memory_norm = nn.LayerNorm(dim)
        self.propose = PredictionHead(dim, num_classes)
        self.one_to_many = PredictionHead(dim, num_classes)
        self.content = nn.Linear(dim, dim)
        self.label_embedding = nn.Embedding(num_classes, dim)
        self.box_position = mlp([2 * dim, dim, dim])
        self.decoder = nn.ModuleList(
            DecoderLayer(
                dim,
                heads,
                feedforward,
                cross_attention=cross_attention_named(cross_attention, **common, **decoder_kind),
                similarity=similarity,
                sample_channels=sample_channels,
                points=sample_points,
            )
            for _ in range(decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(dim)
        self.heads = nn.ModuleList(PredictionHead(dim, num_classes) for _ in range(decoder_layers))

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        padding_mask: Bool[Tensor, "b h w"] | None = None,
        *,
        denoising: DenoisingQueries | None = None,
        need_attention: bool = False,
    ) -> DetectorOutput:
        """`padding_mask` is True on padding, None where nothing is padded. Height and width are multiples of `stride`.

        In training the output carries proposals, the one-to-many head and, with `denoising`, its layers.
        """
        visible = visible_size(images, padding_mask)
        levels = self.backbone(images, padding_mask)
        middle = levels[-2:][0]  # the last but one, or the only one
        memory_map = self.top_down(self._encode(levels[-1], visible), levels[-2:-1])
        size = (memory_map.shape[2], memory_map.shape[3])
        tokens = self.memory_norm(memory_map.flatten(2).transpose(1, 2))
        centres = cell_centres(size, middle.stride, visible)
        anchor = (self.anchor_cells * middle.stride / visible)[:, None].expand_as(centres)
        anchors = torch.cat([centres, anchor], -1)
        padding = None if middle.padding_mask is None else middle.padding_mask.flatten(1)
        token_visible = None if padding is None else ~padding
        proposals = self._with_visible(self.propose(tokens, anchors), token_visible)
        content, boxes, query_visible = select(proposals, tokens, self.queries, self.distinct_iou)
        fine = hide(self.fine_projection(levels[0].tensor), levels[0].padding_mask)
        memory = Memory(
            tokens=tokens,
            keys=tokens + place_code(centres, self.dim),
            size=size,
            padding_mask=middle.padding_mask,
            cells=visible / middle.stride,
            fine=fine,
            fine_cells=visible / levels[0].stride,
        )
        layers, maps, samples, final = self._decode(
            self.content(content), boxes, query_visible, memory, denoising, need_attention
        )
        q = content.shape[1]
        noised: DenoisingOutput | None = None
        if denoising is not None:
            both = [layer.split(q) for layer in layers]
            layers, of_noised = [own for own, _ in both], tuple(other for _, other in both)
            noised = DenoisingOutput(of_noised, denoising.truth, denoising.positive, denoising.valid)
        matching = [self._with_visible(layer, query_visible) for layer in layers]
        return DetectorOutput(
            logits=matching[-1].logits,
            boxes=matching[-1].boxes,
            auxiliary=tuple(matching[:-1]),
            proposals=proposals if self.training else None,
            one_to_many=self._with_visible(self.one_to_many(tokens, anchors), token_visible) if self.training else None,
            denoising=noised,
            attention=AttentionMaps(tuple(maps), size, tuple(samples)) if need_attention else None,
            query_visible=query_visible,
            queries=final[:, :q],
        )

    @property
    def category_rows(self) -> tuple[str, ...]:
        """The parameters whose rows are categories', in the order of labels."""
        heads = [name for name, module in self.named_modules() if isinstance(module, PredictionHead)]
        return (*(f"{h}.classify.{part}" for h in heads for part in ("weight", "bias")), "label_embedding.weight")

    def noised_truths(
        self, targets: PackedTargets, image_ids: Sequence[int], *, seed: int, step: int
    ) -> DenoisingQueries:
        """Denoising queries for a step of training: a function of seed, step and image ids."""
        return make_denoising(targets, image_ids, num_classes=self.num_classes, seed=seed, step=step, **self.noise)

    def postprocess(
        self, output: DetectorOutput, sizes: Sequence[tuple[int, int]], categories: Categories, limit: int = 100
    ) -> list[Detections]:
        """Detections of each image in pixels of its original `sizes` (height, width)."""
        return sigmoid_detections(output, sizes, categories, limit)

    def _encode(self, top: Features, visible: Float[Tensor, "b 2"]) -> Float[Tensor, "b c h w"]:
        x = self.input_projection(top.tensor)
        b, c, h, w = x.shape
        position = place_code(cell_centres((h, w), top.stride, visible), c).to(x.dtype)
        blocked = None if top.padding_mask is None else blocked_by_padding(top.padding_mask.flatten(1))
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.encoder:
            tokens = layer(tokens, position, blocked, (h, w))
        return hide(tokens.transpose(1, 2).reshape(b, c, h, w), top.padding_mask)

    def _decode(
        self,
        query: Float[Tensor, "b q c"],
        boxes: Float[Tensor, "b q 4"],
        query_visible: Bool[Tensor, "b q"] | None,
        memory: Memory,
        denoising: DenoisingQueries | None,
        need_attention: bool,
    ) -> tuple[list[Prediction], list[Tensor], list[Tensor], Tensor]:
        blocked = None if query_visible is None else blocked_by_padding(~query_visible)
        if denoising is not None:
            q = query.shape[1]
            query = torch.cat([query, self.label_embedding(denoising.labels)], 1)
            boxes = torch.cat([boxes, denoising.boxes], 1)
            if blocked is not None:
                blocked = nn.functional.pad(blocked, (0, denoising.labels.shape[1]))
            blocked = join_blocked(blocked, denoising.blocked(q))
        layers, maps, samples, final = [], [], [], query
        for layer, head in zip(self.decoder, self.heads, strict=True):
            assert isinstance(layer, DecoderLayer)
            position = self.box_position(sine_box_code(boxes, 2 * self.dim))
            if need_attention:
                maps.append(layer.where(query, position, boxes, memory, blocked))
                samples.append(layer.box_attention.places(boxes))
            query = layer(query, position, boxes, memory, blocked)
            final = self.decoder_norm(query)
            prediction = head(final, boxes)
            layers.append(prediction)
            boxes = prediction.boxes.detach()
        return layers, maps, samples, final

    @staticmethod
    def _with_visible(prediction: Prediction, visible: Bool[Tensor, "b n"] | None) -> Prediction:
        return Prediction(prediction.logits, prediction.boxes, visible)
