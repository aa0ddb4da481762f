"""A small convolutional network for training from scratch, designed for speed on a CPU.

Weights are standardised instead of activations (Qiao et al. 2019, with the gain of Brock et al. 2021, "Characterizing
signal propagation", eq. 2-3). So an image's features do not depend on the other images of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from detr_mini.vision.features import Features
from detr_mini.vision.padding import cells_on_padding, hide

RELU_GAIN = 1.7139588594436646  # sqrt(2 / (1 - 1 / pi)): a ReLU of unit-variance noise times this has unit variance


class StandardisedConv(nn.Conv2d):
    """A 3x3 or 1x1 convolution whose kernels have mean 0 and variance 1 / fan-in, times a learned gain.

    `after_relu`: the input is what a ReLU left, to be multiplied by `RELU_GAIN`. The kernels, which are smaller, are
    multiplied instead.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, after_relu: bool = False
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
        fan_in = self.weight[0].numel()
        factor = (RELU_GAIN if after_relu else 1.0) * fan_in**-0.5
        self.factor: Tensor
        self.register_buffer("factor", torch.full((fan_in,), factor), persistent=False)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))
        # the output does not depend on this scale, but the relative size of an optimizer step does
        nn.init.normal_(self.weight, std=fan_in**-0.5)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hh ww"]:
        return functional.conv2d(x, self.kernel(), self.bias, self.stride, self.padding)

    def kernel(self) -> Float[Tensor, "d c k k"]:
        """The kernels of the convolution."""
        outputs, inputs, height, width = self.weight.shape
        rows = self.weight.permute(0, 2, 3, 1).flatten(1)  # one kernel per row; no copy in channels_last
        fan_in = rows.shape[1]
        # layer norm gives each row mean 0 and variance 1, four times faster than separate operations
        rows = functional.layer_norm(rows, (fan_in,), self.factor, eps=1e-6 / fan_in) * self.gain.flatten(1)
        return rows.view(outputs, height, width, inputs).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """x + scale * conv(relu(conv(relu(x)))): pre-activation (He et al. 2016), with a learned scale, at first 0.2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = StandardisedConv(channels, channels, after_relu=True)
        self.conv2 = StandardisedConv(channels, channels)
        self.scale = nn.Parameter(torch.tensor(0.2 * RELU_GAIN))

    def forward(
        self, x: Float[Tensor, "b c h w"], padding_mask: Bool[Tensor, "b h w"] | None
    ) -> Float[Tensor, "b c h w"]:
        branch = hide(self.conv1(functional.relu(x)), padding_mask)
        branch = hide(self.conv2(functional.relu(branch)), padding_mask)
        return x + self.scale * branch


class ConvNet(nn.Module):
    """Features at strides 2, 4, 8, 16, ..., with `channels` and `blocks` (the number of residual blocks) for each.

    `mean` and `std` are the normalisation that the network expects, for images in [0, 1].
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (16, 48, 96, 128),
        blocks: Sequence[int] = (1, 1, 2, 1),
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.strides = tuple(2 * 2**level for level in range(len(channels)))
        self.mean, self.std = tuple(mean), tuple(std)
        inputs = 12  # pixel-unshuffle by 2: four pixels with three colours
        self.downsample = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for stride, width, depth in zip(self.strides, channels, blocks, strict=True):
            first = stride == 2
            self.downsample.append(StandardisedConv(inputs, width, stride=1 if first else 2, after_relu=not first))
            self.blocks.append(nn.ModuleList(ResidualBlock(width) for _ in range(depth)))
            inputs = width

    def forward(
        self, images: Float[Tensor, "b 3 h w"], padding_mask: Bool[Tensor, "b h w"] | None = None
    ) -> list[Features]:
        """Height and width are multiples of the largest stride; `images` is zero on padding."""
        x = functional.pixel_unshuffle(images, 2)
        features: list[Features] = []
        mask, finer = padding_mask, 1
        for stride, downsample, blocks in zip(self.strides, self.downsample, self.blocks, strict=True):
            mask, finer = None if mask is None else cells_on_padding(mask, stride // finer), stride
            x = downsample(x if stride == 2 else functional.relu(x))
            x = hide(x, mask)
            for block in cast(nn.ModuleList, blocks):
                x = block(x, mask)
            features.append(Features(functional.relu(x) * RELU_GAIN, mask, stride))
        return features
