"""A detector of `transformers` as an exported file has it: for images of one size, without padding."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from detr_mini.errors import UserError
from detr_mini.models.heads import Best, best_classes, best_pairs
from detr_mini.peers.detector import HFDetector
from detr_mini.structures import DetectorOutput

OF_ONE_SIZE = ("deformable_detr",)
"""Kinds of any shape whose code makes plain numbers of the sizes of their maps."""


class PeerNetwork(nn.Module):
    """The library's model, with images in the shape that `HFDetector` gives them in evaluation."""

    def __init__(self, model: HFDetector, image: Mapping[str, Any]) -> None:
        """`image`: how its images are prepared (`to_model_input`). UserError where their shape cannot be known."""
        super().__init__()
        if model.kind.name in OF_ONE_SIZE:
            raise UserError(
                f"the code of {model.kind.name} in transformers can only be exported for images of one size; "
                "format=safetensors writes it as a file that 'load' reads"
            )
        self.library = model.library
        self.square = None if model.as_published or model.masked else _side(model, image)
        self.multiple = model.stride if model.masked else 1

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> DetectorOutput:
        """Logits and boxes (cxcywh in [0, 1] of the image)."""
        inputs: dict[str, Tensor] = {"pixel_values": images}
        if self.square is not None and images.shape[2:] != (self.square, self.square):
            # no side shrinks, so that antialiasing would change nothing
            inputs["pixel_values"] = interpolate(images, (self.square, self.square), mode="bilinear")
        elif self.multiple > 1:
            below, right = ((side + self.multiple - 1) // self.multiple * self.multiple - side
                            for side in images.shape[2:])  # fmt: skip
            inputs["pixel_values"] = pad(images, (0, right, 0, below))
            inputs["pixel_mask"] = pad(images.new_ones(len(images), *images.shape[2:]), (0, right, 0, below)).long()
        with _traceable_lengths(self.library):
            found = self.library(**inputs)
        return DetectorOutput(found.logits.float(), found.pred_boxes.float())


@contextmanager
def _traceable_lengths(library: nn.Module) -> Iterator[None]:
    """`len` of a tensor, in the library's code, is a size that torch can trace: the built-in one makes it a number."""
    modules = {type(module).__module__ for module in library.modules()}
    spaces = [vars(sys.modules[name]) for name in modules if name.startswith("transformers.")]
    for names in spaces:
        names["len"] = _length
    try:
        yield
    finally:
        for names in spaces:
            del names["len"]


def _length(value: Any) -> Any:
    return value.shape[0] if isinstance(value, Tensor) else len(value)


def best_of_peer(num_classes: int, output: DetectorOutput, limit: int) -> Best:
    """The selection of `HFDetector.postprocess`."""
    no_object = output.logits.shape[-1] > num_classes
    return (best_classes if no_object else best_pairs)(output, limit)


def _side(model: HFDetector, image: Mapping[str, Any]) -> int:
    """Of the square that every image is stretched to: the longer side of all of them, a multiple of the stride."""
    if image.get("shorter_side") is not None:
        raise UserError(
            f"images of this {model.kind.name} have squares of different sizes (data.shorter_side), and an exported "
            "file has one; train with data.shorter_side=null, or use format=safetensors"
        )
    return int(-(-image["size"] // model.grid) * model.grid)
