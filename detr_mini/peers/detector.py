"""Peers: any detector of `transformers` behind the interface of our own models (extra `hf`).

The library's model computes, and its own loss is what trains it (`losses.peer`). Here are the two ends: images as each
model wants them, and its output in our structures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detr_mini.errors import ConfigError
from detr_mini.models.heads import sigmoid_detections, softmax_detections
from detr_mini.models.protocol import Backbone, ModelDefaults
from detr_mini.peers.images import Canvas, apart, squares
from detr_mini.peers.kinds import ANY_SHAPE, MASKED, Kind, build_library, find, make_config, own_settings, stride_of
from detr_mini.structures import Categories, Detections, DetectorOutput, PackedTargets, PeerLoss

TOO_SMALL = ("selected index k out of range", "Expected more than 1 value per channel")
"""What torch says of an image with fewer places than queries, or of a map of one place."""


class OwnBackbone(nn.Module):
    """In the place of a backbone of ours: the detector `name` (as of `HFDetector`) keeps its library's own.

    `mean`, `std` and `strides` say how it wants its images.
    """

    def __init__(self, *, name: str | None) -> None:
        super().__init__()
        kind = find(name)
        self.mean, self.std = kind.normalisation
        self.strides = (stride_of(make_config(kind, {}, None, 1)),)


class HFDetector(ModelDefaults, nn.Module):
    """A detector of `transformers`, of random weights until `start` has been called.

    Images go in as the kind was made for. `MASKED` kinds (DETR and its like) take any shape and a mask of the padding;
    in evaluation, images of different shapes go through apart, so that no neighbour's padding is seen. The others know
    nothing of padding: each image is stretched to a square.
    """

    def __init__(
        self,
        *,
        backbone: OwnBackbone | Backbone,
        num_classes: int,
        name: str | None,
        queries: int | None = None,
        config: Mapping[str, Any] | None = None,
        as_published: bool = False,
    ) -> None:
        """`name`: a kind ("rt_detr_v2"), a folder of published weights, or their hub name. `config`: settings of the
        kind, as the library calls them; `queries`: of its object queries, None: as the kind or the weights have it.

        `backbone`: `OwnBackbone`, or one of ours, which takes the place of the library's. `as_published`: images go in
        as they come, in any shape, as the library's own pipeline has them. ConfigError for what cannot be.
        """
        super().__init__()
        self.kind: Kind = find(name)
        self.num_classes = num_classes
        made = make_config(self.kind, config or {}, queries, num_classes)
        self.settings = own_settings(made)
        self.queries = self.settings.get("num_queries") or self.settings.get("num_detection_tokens")
        self.own_backbone = isinstance(backbone, OwnBackbone)
        if isinstance(backbone, OwnBackbone):
            self.library: Any = build_library(made)
            self.stride = stride_of(made)
        else:
            self.library = self._on(backbone, made)
            self.stride = backbone.strides[-1]
        self.as_published, self.grid, self.stride = as_published, self.stride, 1 if as_published else self.stride
        self.masked = self.kind.name in MASKED
        self.loss: Callable[..., Any] = self.library.loss_function
        self.library.loss_function = _inputs_of_loss
        for parameter_name, parameter in self.library.named_parameters():
            if parameter_name.endswith("mask_token"):  # for the library's own pretraining: no detector uses it
                parameter.requires_grad_(False)
        # the library's losses of grouped queries (LW-DETR, RF-DETR) count groups that evaluation has not
        self.judged = copy.copy(made)
        if hasattr(made, "group_detr"):
            self.judged.group_detr = 1

    def _on(self, backbone: Backbone, made: Any) -> nn.Module:
        if self.kind.source is not None:
            raise ConfigError(f"the weights of {self.kind.source} come with a backbone of their own; say backbone=own")
        from detr_mini.peers.backbone import fit_config, put_in

        fit_config(made, backbone.channels, backbone.strides)
        self.settings.pop("backbone_config", None)
        model = build_library(made)
        put_in(model, backbone)
        return model

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        padding_mask: Bool[Tensor, "b h w"] | None = None,
        *,
        denoising: PackedTargets | None = None,
        need_attention: bool = False,
    ) -> DetectorOutput:
        """Logits and boxes (cxcywh in [0, 1] of each image without its padding), and what the library's loss needs.

        `padding_mask` is True on padding, None where nothing is padded. Height and width are multiples of `stride`.
        `denoising`: in training, the truths, for kinds that learn from noised copies of them; the logits and boxes of
        the copies then come first.
        ConfigError where the images are too small for the queries.
        """
        if self.training:
            if self.masked:
                canvases = [Canvas(tuple(range(len(images))), images, padding_mask)]
            elif self.as_published and self.kind.name in ANY_SHAPE:  # it knows no mask, so each shape goes by itself
                canvases = [replace(canvas, padding_mask=None) for canvas in apart(images, padding_mask, 1)]
            else:
                canvases = squares(images, padding_mask, self.grid, together=True)
        elif self.as_published:
            canvases = [replace(canvas, padding_mask=None) for canvas in apart(images, padding_mask, 1)]
        elif self.masked:
            canvases = apart(images, padding_mask, self.stride)
        else:
            canvases = squares(images, padding_mask, self.stride, together=False)
        parts = [self._look(canvas, denoising) for canvas in canvases]
        logits = torch.cat([part.logits for part in parts]).float()
        boxes = torch.cat([part.pred_boxes for part in parts]).float()
        if len(parts) > 1:
            back = torch.tensor([row for canvas in canvases for row in canvas.rows]).argsort().to(logits.device)
            logits, boxes = logits[back], boxes[back]
        pairs = zip(canvases, parts, strict=True)
        peer = tuple(PeerLoss(canvas.rows, self.loss, *part.loss) for canvas, part in pairs)
        return DetectorOutput(logits, boxes, peer=peer)

    def _look(self, canvas: Canvas, truths: PackedTargets | None) -> Any:
        """The library's output for a canvas; its `loss` is what a loss would be computed from."""
        mask = {} if canvas.padding_mask is None else {"pixel_mask": (~canvas.padding_mask).long()}
        if truths is None:  # the library's word for "no loss" is no labels; then it leaves the other layers out, too
            nothing = canvas.images.new_zeros(0, 4)
            found = [(nothing, nothing[:, 0].long())] * len(canvas.rows)
        else:
            found = [truths.of(row) for row in canvas.rows]
        labels = [{"class_labels": classes, "boxes": boxes} for boxes, classes in found]
        try:
            output = self.library(pixel_values=canvas.images, labels=labels, **mask)
        except (RuntimeError, ValueError) as error:
            if any(words in str(error) for words in TOO_SMALL):
                raise self._too_small(canvas) from error
            raise
        if not self.training:
            inputs, named = output.loss
            output.loss = (*inputs[:4], self.judged, *inputs[5:]), named
        return output

    def _too_small(self, canvas: Canvas) -> ConfigError:
        height, width = canvas.images.shape[2:]
        return ConfigError(
            f"an image of {width} x {height} pixels has too few places for {self.kind.name} and its "
            f"{self.queries} queries; raise data.size, or lower model.queries"
        )

    def noised_truths(self, targets: PackedTargets, image_ids: Sequence[int], *, seed: int, step: int) -> PackedTargets:
        """The truths as they are: the library adds its noise itself, from torch's generator, which the step has
        seeded."""
        return targets

    def postprocess(
        self, output: DetectorOutput, sizes: Sequence[tuple[int, int]], categories: Categories, limit: int = 100
    ) -> list[Detections]:
        """Detections of each image in pixels of its original `sizes` (height, width), by the kind's own rule."""
        no_object = output.logits.shape[-1] > self.num_classes
        return (softmax_detections if no_object else sigmoid_detections)(output, sizes, categories, limit)

    def start(self, names: Sequence[str]) -> list[str]:
        """Before a training on the categories `names`: take the published weights; sentences that say what was taken.

        CheckpointError where there are none, or not for this model.
        """
        if self.kind.source is None:
            return []
        from detr_mini.peers.published_weights import take_published

        return [take_published(self.library, self.kind, names)]

    @cached_property
    def category_rows(self) -> tuple[str, ...]:
        """Parameters with a row a category."""
        from detr_mini.peers.published_weights import per_category

        return tuple(f"library.{name}" for name in per_category(self.library))

    def settled(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """`config` (of a training) with all that builds this model written out: neither a folder nor a hub is asked
        when a checkpoint of it is loaded."""
        settings = {**self.settings}
        if "tie_word_embeddings" in settings:  # the published weights may have apart what the library ties
            settings["tie_word_embeddings"] = self.library.config.tie_word_embeddings
        model = {**config["model"], "name": self.kind.name, "queries": None, "config": settings}
        backbone = {**config["backbone"]}
        if self.own_backbone:
            backbone["name"] = self.kind.name
        return {**config, "model": model, "backbone": backbone}


def _inputs_of_loss(*inputs: Any, **named: Any) -> tuple[Any, dict[str, Any], None]:
    """In the place of the library's loss: what it would have been computed from, as the output's `loss`."""
    return (inputs, named), {}, None
