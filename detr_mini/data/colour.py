"""Brightness, contrast and saturation as one 3 x 4 matrix of colours: a pass over the image in place of three."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from detr_mini.data.augment import Sample, chance
from detr_mini.errors import ConfigError

GREY = (0.2989, 0.587, 0.114)
"""Shares of red, green and blue in what is grey; torchvision's."""
CHANGES = ("brightness", "contrast", "saturation")


class RandomColourJitter:
    """With probability `p`, torchvision's `ColorJitter` without hue: factors drawn from [1 - x, 1 + x], in any order.

    Values are rounded and clipped once, at the end, where torchvision cuts them off after each change. On photographs,
    95 % of the values are within a grey level of its result in floating point; the others were clipped there between
    two changes. It takes a quarter of the time (docs/log/many-processes.md).
    """

    def __init__(
        self,
        p: float | int = 0.5,
        brightness: float | int = 0.0,
        contrast: float | int = 0.0,
        saturation: float | int = 0.0,
    ) -> None:
        self.p, self.ranges = p, dict(zip(CHANGES, (brightness, contrast, saturation), strict=True))
        for name, value in self.ranges.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"RandomColourJitter needs {name} from 0 to 1, not {value}")

    def __call__(self, image: UInt8[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"]) -> Sample:
        """The image in other colours, or as it was."""
        if not chance(self.p):
            return image, boxes
        factors = (1 + (2 * torch.rand(3) - 1) * torch.tensor([*self.ranges.values()])).tolist()
        changes = [(CHANGES[which], factors[which]) for which in torch.randperm(3).tolist()]
        pixels = image.flatten(1).float()
        matrix, offset = colour_matrix(changes, pixels.mean(1))
        mixed = torch.addmm(offset[:, None] + 0.5, matrix, pixels)  # a half, so that cutting off rounds
        return mixed.clamp_(0, 255).to(torch.uint8).view(image.shape), boxes


def colour_matrix(
    changes: Sequence[tuple[str, float | int]], mean: Float[Tensor, "3"]
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]]:
    """What `changes` (name, factor), one after the other, make of a colour x: matrix @ x + offset.

    `mean` is the mean colour of the image. Brightness f: f x. Contrast: f x + (1 - f) grey(mean). Saturation:
    f x + (1 - f) grey(x).
    """
    grey = torch.tensor(GREY)
    matrix, offset = torch.eye(3), torch.zeros(3)
    for name, factor in changes:
        if name == "saturation":
            mix = factor * torch.eye(3) + (1 - factor) * grey.expand(3, 3)
            matrix, offset = mix @ matrix, mix @ offset
        else:
            towards = grey @ (matrix @ mean + offset) if name == "contrast" else 0.0
            matrix, offset = factor * matrix, factor * offset + (1 - factor) * towards
    return matrix, offset
