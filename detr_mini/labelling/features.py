"""What a detector makes of a picture as a whole: its backbone's last feature map, averaged, in the same pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detr_mini.errors import ConfigError
from detr_mini.inference.detector import Detector
from detr_mini.inference.sources import Source
from detr_mini.labelling.prelabels import Found, find_in
from detr_mini.peers.detector import HFDetector
from detr_mini.vision.features import Features

_SMALL = 1e-6


def find_with_features(
    detector: Detector, sources: Sequence[Source], least: float, batch_size: int = 8
) -> tuple[Found, Float[Tensor, "n c"]]:
    """The detections of at least `least` in each readable picture, and a vector for each of these pictures.

    ConfigError for a model that has no part called "backbone".
    """
    pooled: list[Tensor] = []
    if isinstance(detector.model, HFDetector):  # it goes through a batch shape by shape, in another order
        batch_size = 1
    with _watching(_backbone_of(detector), pooled):
        found = find_in(detector, sources, least, batch_size)
    return found, torch.cat(pooled)


def _backbone_of(detector: Detector) -> nn.Module:
    named = dict(detector.model.named_modules())
    paths = [path for path in named if path.split(".")[-1] == "backbone"]
    if not paths:
        raise ConfigError("this checkpoint's model has no backbone to compare pictures by; use one trained with "
                          "model=mini or model=detr")  # fmt: skip
    return named[min(paths, key=lambda path: (path.count("."), path))]


@contextmanager
def _watching(backbone: nn.Module, pooled: list[Tensor]) -> Iterator[None]:
    """Append the average of each output's last map to `pooled`, a row for each picture."""
    handle = backbone.register_forward_hook(lambda module, given, output: pooled.append(_average(output)))
    try:
        yield
    finally:
        handle.remove()


def _average(output: Any) -> Float[Tensor, "b c"]:
    if isinstance(output, Features):
        maps = output.tensor.float()
        if output.padding_mask is None:
            return maps.mean((2, 3)).cpu()
        seen = (~output.padding_mask)[:, None].float()
        return ((maps * seen).sum((2, 3)) / seen.sum((2, 3)).clamp(min=1)).cpu()
    if isinstance(output, Tensor) and output.dim() == 4:
        return output.float().mean((2, 3)).cpu()
    parts = [output[key] for key in output] if isinstance(output, dict) else list(output)
    if len(parts) == 2 and all(isinstance(part, list) for part in parts):  # a library's maps, and their positions
        parts = parts[0]
    for part in reversed(parts):  # the deepest map is the last one
        if isinstance(part, Features | Tensor | list | tuple) and len(found := _average_or_none(part)):
            return found
    raise ConfigError("this checkpoint's backbone gives no feature map to compare pictures by")


def _average_or_none(part: Any) -> Tensor:
    if isinstance(part, Tensor) and part.dim() != 4:
        return torch.zeros(0)
    return _average(part) if isinstance(part, Features) or len(part) else torch.zeros(0)


def directions(*groups: Float[Tensor, "_ c"]) -> list[Float[Tensor, "_ c"]]:
    """Vectors of several groups of pictures, each channel standardised over all of them, then of length 1."""
    every = torch.cat(groups)
    mean, spread = every.mean(0), every.std(0, unbiased=False)
    return [nn.functional.normalize((group - mean) / spread.clamp(min=_SMALL)) for group in groups]
