"""DETR as published (Carion et al. 2020, "End-to-end object detection with transformers").

image -> backbone -> encoder over the deepest feature map -> decoder with learned object queries -> classes and boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from detr_mini.attention.multihead import blocked_by_padding
from detr_mini.attention.positions import check_sine_width, sine_positions_2d
from detr_mini.errors import ConfigError, nearest
from detr_mini.models.detr_transformer import BoxMLP, Transformer
from detr_mini.models.heads import softmax_detections
from detr_mini.models.protocol import Backbone, ModelDefaults
from detr_mini.structures import AttentionMaps, Categories, Detections, DetectorOutput, Prediction
from detr_mini.vision import backbone as networks

PADDINGS = ("published", "hidden")


class DETR(ModelDefaults, nn.Module):
    """The model of 2020; the defaults are its sizes. Uses the backbone's deepest stride only.

    A backbone with a dilated last stage makes it DETR-DC5. Class `num_classes` (the last) is "no object".
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        dim: int = 256,
        heads: int = 8,
        feedforward: int = 2048,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        queries: int = 100,
        dropout: float = 0.1,
        pre_norm: bool = False,
        padding: str = "hidden",
    ) -> None:
        """`pre_norm`: norms before each part of a layer, not after it (the published code's option).

        `padding`: "published", as in the code of 2020: the backbone sees padding as zeros of the image, and its border
        changes what an image gives. "hidden" (also where an older checkpoint does not say): an image gives the same in
        any batch. Both are one for images of one size. ConfigError for another word, and for a `dim` that 4 does not
        divide.
        """
        super().__init__()
        if padding not in PADDINGS:
            raise ConfigError(
                f"model.padding is '{padding}'{nearest(padding, PADDINGS)}; choose {' or '.join(PADDINGS)}"
            )
        check_sine_width(dim)
        strides, channels = backbone.strides, backbone.channels
        self.num_classes, self.dim, self.queries = num_classes, dim, queries
        self.hides_padding = padding == "hidden"
        any_size = isinstance(backbone, networks.Backbone) and not self.hides_padding
        self.stride = 1 if any_size else strides[-1]
        self.backbone = backbone
        self.input_proj = nn.Conv2d(channels[-1], dim, 1)
        self.transformer = Transformer(dim, heads, feedforward, encoder_layers, decoder_layers, dropout, pre_norm)
        self.query_embed = nn.Embedding(queries, dim)
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.bbox_embed = BoxMLP(dim)

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        padding_mask: Bool[Tensor, "b h w"] | None = None,
        *,
        denoising: Any = None,
        need_attention: bool = False,
    ) -> DetectorOutput:
        """Logits (b, queries, num_classes + 1) and boxes (cxcywh in [0, 1] of each image without its padding).

        `padding_mask` is True on padding, None where nothing is padded. Height and width are multiples of `stride`.
        ValueError if `denoising` is given: this model has no denoising queries.
        """
        if denoising is not None:
            raise ValueError("DETR has no denoising queries; pass denoising=None")
        x, padding = self._features(images, padding_mask)
        b, _, h, w = x.shape
        cells = x.new_zeros(b, h, w, dtype=torch.bool) if padding is None else padding
        weight = self.query_embed.weight
        precise = torch.promote_types(weight.dtype, torch.float32)
        position = sine_positions_2d(cells, self.dim, dtype=precise).flatten(1, 2).to(weight.dtype)
        blocked = None if padding is None else blocked_by_padding(cells.flatten(1))
        memory = self.transformer.encoder(x.flatten(2).transpose(1, 2), position, blocked)
        query_position = self.query_embed.weight.expand(b, -1, -1)
        content = torch.zeros_like(query_position)
        layers, maps = self.transformer.decoder(content, query_position, memory, position, blocked, need_attention)
        predictions = [self._predict(features) for features in layers]
        return DetectorOutput(
            logits=predictions[-1].logits,
            boxes=predictions[-1].boxes,
            auxiliary=tuple(predictions[:-1]),
            attention=AttentionMaps(tuple(maps), (h, w)) if need_attention else None,
        )

    def _features(
        self, images: Float[Tensor, "b 3 h w"], padding_mask: Bool[Tensor, "b h w"] | None
    ) -> tuple[Float[Tensor, "b c hh ww"], Bool[Tensor, "b hh ww"] | None]:
        """The deepest map in the transformer's width, and which of its cells are padding (None: none)."""
        if self.hides_padding or padding_mask is None:
            top = self.backbone(images, padding_mask)[-1]
            return self.input_proj(top.tensor), top.padding_mask
        x = self.input_proj(self.backbone(images, None)[-1].tensor)
        cells = functional.interpolate(padding_mask[:, None].float(), size=x.shape[-2:], mode="nearest")
        return x, cells[:, 0].bool()

    @property
    def category_rows(self) -> tuple[str, ...]:
        """The parameters whose rows are categories', in the order of labels, and behind them "no object"."""
        return "class_embed.weight", "class_embed.bias"

    def postprocess(
        self, output: DetectorOutput, sizes: Sequence[tuple[int, int]], categories: Categories, limit: int = 100
    ) -> list[Detections]:
        """Detections of each image in pixels of its original `sizes` (height, width)."""
        return softmax_detections(output, sizes, categories, limit)

    def _predict(self, features: Float[Tensor, "b q c"]) -> Prediction:
        logits, boxes = self.class_embed(features), self.bbox_embed(features)
        precise = torch.promote_types(logits.dtype, torch.float32)
        return Prediction(logits.to(precise), boxes.to(precise).sigmoid())
