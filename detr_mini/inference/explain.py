"""Where a detection's object query looked, layer by layer, and what moved its box, on the picture itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from detr_mini.boxes import cxcywh_to_xyxy, scale_boxes
from detr_mini.errors import UserError
from detr_mini.inference import detections
from detr_mini.inference.batches import evaluating, evaluation_mode
from detr_mini.inference.detector import Detector, ImageLike, as_tensor
from detr_mini.inference.unpadded import fastest
from detr_mini.models.grounded import one_caption
from detr_mini.models.heads import suppress
from detr_mini.models.protocol import EvaluatedModel
from detr_mini.structures import Batch, Captions, Detections, DetectorOutput

NO_ATTENTION = "this model does not say where its queries look; train one with model=mini or model=detr"
SMOOTH = 7
"""Pixels of the model's input over which the influence of a pixel is averaged."""


@dataclass(frozen=True)
class Explained:
    """The image's detections, best first, and what each of them comes from."""

    detections: Detections
    maps: Float[Tensor, "n layers h w"]
    """Cross-attention's weights over the memory, mean over heads, over the whole image."""
    samples: Float[Tensor, "n layers p 2"] | None
    """x, y, in pixels of the image, of the places inside the box where features were read; None: it reads none."""
    influence: Float[Tensor, "m h w"]
    """How much each pixel moves the box (gradient), for the best `most`: attention, samples and all else together."""


@dataclass(frozen=True)
class QueryTrace:
    """One object query, layer by layer: where it looked, and the box that it had afterwards."""

    maps: Float[Tensor, "layers h w"]
    """Cross-attention's weights over the memory's own cells, which cover the whole image; mean over heads."""
    boxes: Float[Tensor, "layers 4"]
    """xyxy in pixels of the image."""


def trace_query(detector: Detector, image: ImageLike, query: int, caption: str | None = None) -> QueryTrace:
    """What the object query `query` (`Detections.queries`) did in an image; memory's size, whatever the image's.

    `caption`: the sentence that was asked. UserError for a model that does not say where it looks, and for a query that
    it does not have.
    """
    (batch,) = detector.batches([as_tensor(image)], 1)
    batch = batch.to(detector.device)
    asked: dict[str, Captions] = {}
    if caption is not None:
        asked = {"captions": one_caption(detector.encoded(caption), 1).to(detector.device)}
    with evaluating(detector.model):
        output = detector.model(batch.images, batch.mask(), need_attention=True, **asked)
        found = output
        if caption is None:
            ((_, found),) = fastest(detector.model, detector.device)(batch)
    if output.attention is None:
        raise UserError(NO_ATTENTION)
    if not 0 <= query < found.boxes.shape[1]:
        raise UserError(f"there is no query {query}; the model has {found.boxes.shape[1]}")
    query = _same_query(output, found, query)
    maps = torch.stack([layer[0, query].float().cpu() for layer in output.attention.cross])
    rows, columns = output.attention.size
    maps = maps.unflatten(1, (rows, columns))
    shown = (~batch.padding_mask[0]).cpu()
    kept = (max(1, round(rows * float(shown[:, 0].float().mean()))),
            max(1, round(columns * float(shown[0].float().mean()))))  # fmt: skip
    height, width = batch.targets[0].original_size
    boxes = torch.stack([layer.boxes[0, query].float().cpu() for layer in (*output.auxiliary, output.final)])
    inside = cxcywh_to_xyxy(boxes).clamp(0, 1)  # as in detections
    return QueryTrace(maps[:, : kept[0], : kept[1]], scale_boxes(inside, width, height))


def _same_query(output: DetectorOutput, found: DetectorOutput, query: int) -> int:
    """The query of `output` that finds what `query` finds in `found`: `detect` may compute another form of the model,
    and queries whose scores are equal to the last digits change places there."""
    ours, theirs = (torch.cat([each.boxes, each.logits.sigmoid()], -1)[0].float() for each in (output, found))
    return int((ours - theirs[query]).abs().sum(-1).argmin())


def explain(
    detector: Detector, image: ImageLike, threshold: float | int = 0.5
) -> tuple[detections.Detections, Float[Tensor, "n layers h w"]]:
    """The image's detections, best first, and for each where its query looked in each decoder layer.

    Maps are the cross-attention's weights over the memory, mean over heads, brought to the image's own pixels
    (bilinear); before that they sum to at most one. UserError for a model that does not say where it looks.
    """
    explained = explain_all(detector, image, threshold, most=0)
    return detections.Detections.of(explained.detections, image), explained.maps


def explain_all(
    detector: Detector,
    image: ImageLike,
    threshold: float | int = 0.5,
    most: int = 8,
    rows: int | None = None,
    longest: int | None = None,
) -> Explained:
    """As `explain`, with the samples inside each box and, for the `most` best, the pixels that move the box.

    `rows`: how many of the best detections are explained; None: all. `longest`: the most pixels of a map's longer side;
    None: as many as the image has. All detections of a photograph, on its own pixels, take gigabytes.
    """
    pixels = as_tensor(image)
    (batch,) = detector.batches([pixels], 1)
    batch = batch.to(detector.device)
    with evaluating(detector.model):
        output = detector.model(batch.images, batch.mask(), need_attention=True)
        (found,) = detector.model.postprocess(output, [batch.targets[0].original_size], detector.categories)
    if output.attention is None or found.queries is None:
        raise UserError(NO_ATTENTION)
    found = suppress(found, detector.operating_point.suppress_iou).above(float(threshold))[:rows]
    queries = found.queries
    assert queries is not None
    layers = torch.stack([layer[0].float().cpu()[queries] for layer in output.attention.cross], 1)
    maps = layers.unflatten(2, output.attention.size)
    height, width = batch.images.shape[-2:]
    whole = (
        interpolate(maps, size=(height, width), mode="bilinear")
        if len(found)
        else maps.new_zeros(0, maps.shape[1], height, width)
    )
    size = (pixels.shape[1], pixels.shape[2])
    shrunk = 1.0 if longest is None else min(1.0, longest / max(size))
    shown = (max(1, round(size[0] * shrunk)), max(1, round(size[1] * shrunk)))
    own = _on_the_image(whole, batch, shown) if len(found) else _visible(whole, batch)
    samples = None
    if output.attention.samples:
        scale = torch.tensor([size[1], size[0]])
        samples = torch.stack([layer[0].float().cpu()[queries] for layer in output.attention.samples], 1) * scale
    influence = own.new_zeros(0, *own.shape[-2:])
    if most and len(found):
        influence = _on_the_image(_influence(detector.model, batch, queries[:most])[:, None], batch, shown)[:, 0]
    return Explained(found, own, samples, influence)


def _influence(model: EvaluatedModel, batch: Batch, queries: Int[Tensor, " m"]) -> Float[Tensor, "m h w"]:
    """How much each input pixel moves the two corners of each query's box: the gradient's absolute sum, smoothed."""
    with evaluation_mode(model), torch.enable_grad():
        images = batch.images.clone().requires_grad_()
        boxes = cxcywh_to_xyxy(model(images, batch.mask()).boxes[0])
        moved = torch.zeros(len(queries), *images.shape[-2:])
        for row, query in enumerate(queries.tolist()):
            for corner in (boxes[query, :2], boxes[query, 2:]):
                (gradient,) = torch.autograd.grad(corner.sum(), images, retain_graph=True)
                moved[row] += gradient[0].abs().sum(0).float().cpu()
    return avg_pool2d(moved[:, None], SMOOTH, 1, SMOOTH // 2, count_include_pad=False)[:, 0]


def _visible(maps: Float[Tensor, "n l h w"], batch: Batch) -> Float[Tensor, "n l h2 w2"]:
    visible = (~batch.padding_mask[0]).cpu()
    return maps[..., : int(visible[:, 0].sum()), : int(visible[0].sum())]


def _on_the_image(maps: Float[Tensor, "n l h w"], batch: Batch, size: tuple[int, int]) -> Float[Tensor, "n l h2 w2"]:
    """Maps of the padded input over the image alone, `size` pixels high and wide."""
    return interpolate(_visible(maps, batch), size=size, mode="bilinear")
