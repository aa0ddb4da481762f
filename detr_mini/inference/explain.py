"""Where a detection's object query looked, layer by layer, on the picture itself."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from detr_mini.errors import UserError
from detr_mini.evaluation.predict import evaluating
from detr_mini.inference.detector import Detector, ImageLike, as_tensor
from detr_mini.models.heads import suppress
from detr_mini.structures import Detections


def explain(
    detector: Detector, image: ImageLike, threshold: float | int = 0.5
) -> tuple[Detections, Float[Tensor, "n layers h w"]]:
    """The image's detections, best first, and for each where its query looked in each decoder layer.

    Maps are the cross-attention's weights over the memory, mean over heads, brought to the image's own pixels
    (bilinear); before that they sum to at most one. UserError for a model that does not say where it looks.
    """
    pixels = as_tensor(image)
    (batch,) = detector.batches([pixels], 1)
    batch = batch.to(detector.device)
    with evaluating(detector.model):
        output = detector.model(batch.images, batch.mask(), need_attention=True)
        (found,) = detector.model.postprocess(  # type: ignore[operator]
            output, [batch.targets[0].original_size], detector.categories
        )
    found = suppress(found, detector.operating_point.suppress_iou).above(float(threshold))
    if output.attention is None or found.queries is None:
        raise UserError("this model does not say where its queries look; train one with model=mini or model=detr")
    layers = torch.stack([layer[0].float().cpu()[found.queries] for layer in output.attention.cross], 1)
    maps = layers.unflatten(2, output.attention.size)
    height, width = batch.images.shape[-2:]
    whole = (
        interpolate(maps, size=(height, width), mode="bilinear") if len(found) else maps.new_zeros(0, 1, height, width)
    )
    visible = (~batch.padding_mask[0]).cpu()
    own = whole[..., : int(visible[:, 0].sum()), : int(visible[0].sum())]
    return found, interpolate(own, size=tuple(pixels.shape[1:]), mode="bilinear") if len(found) else own
