"""The part of an exported file that torch traces: from a prepared image to the best boxes, scores and labels.

All images of a call have one size, so nothing is padded and no mask is computed. A map then has ceil(side / stride)
cells, the same as the visible cells of a padded image, and "padding changes nothing" says that the results agree.
Only what depends on an even side is replaced: see `without_padding`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from detr_mini.attention.core import attend
from detr_mini.attention.efficient import windowed_blocked
from detr_mini.attention.kinds import Windowed
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.deploy.peer_network import PeerNetwork, best_of_peer
from detr_mini.errors import UserError
from detr_mini.models.detr import DETR
from detr_mini.models.grounded import GroundedDETR
from detr_mini.models.heads import Best, best_classes, best_pairs
from detr_mini.models.mini import MiniDETR
from detr_mini.models.protocol import DetectionModel
from detr_mini.peers.detector import HFDetector
from detr_mini.structures import DetectorOutput
from detr_mini.vision.convnet import ConvNet, StandardisedConv
from detr_mini.vision.fast_depthwise import FoldedConv
from detr_mini.vision.features import Features

SELECTION: dict[type, Callable[[DetectorOutput, int], Best]] = {
    MiniDETR: best_pairs,
    GroundedDETR: best_pairs,
    DETR: best_classes,
}
"""How each of our models selects its best detections."""


class Network(nn.Module):
    """A detector without padding, with the selection of its `limit` best detections."""

    def __init__(self, model: DetectionModel, limit: int, image: Mapping[str, Any] | None = None) -> None:
        """`image`: how its images are prepared (`to_model_input`), which a detector of `transformers` needs.

        UserError for a model of another class, and where images have no shape that a file can have. `model` itself is
        not changed.
        """
        super().__init__()
        if type(model) not in (*SELECTION, HFDetector):
            raise UserError(
                f"a detector of {type(model).__name__} is not exported to ONNX, OpenVINO or torch, only those of this "
                "package are; format=safetensors writes it as a file that 'load' reads"
            )
        self.limit = limit
        bare = without_padding(model)
        if isinstance(bare, HFDetector):
            self.select: Callable[[DetectorOutput, int], Best] = partial(best_of_peer, bare.num_classes)
            self.model: nn.Module = PeerNetwork(bare, image or {})
        else:
            self.select, self.model = SELECTION[type(bare)], bare

    def forward(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n"], Int[Tensor, "b n"]]:
        """Boxes (xyxy in [0, 1] of the image), scores (best first) and labels. `images` are resized and normalised."""
        return self.best(self.model(images))

    def best(self, output: DetectorOutput) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n"], Int[Tensor, "b n"]]:
        """The same of what the model has found."""
        scores, labels, query = self.select(output, self.limit)
        boxes = output.boxes.float().gather(1, query[..., None].expand(-1, -1, 4))
        return cxcywh_to_xyxy(boxes).clamp(0, 1), scores, labels


def without_padding(model: DetectionModel) -> nn.Module:
    """A copy of `model` in evaluation mode that takes images of any size, unpadded.

    A convolution with "same" padding places its kernel by whether a side is even, and sides of padded maps always are:
    `FixedConv` keeps that place on odd sides. Kernels that are computed from weights in every call are computed once.
    """
    changed: nn.Module = copy.deepcopy(model).eval()
    for module in list(changed.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Windowed):
                setattr(module, name, MaskedWindows(child))
            elif isinstance(child, ConvNet):
                setattr(module, name, EvenSides(child))
            elif isinstance(child, nn.Conv2d) and (_is_same(child) or isinstance(child, FoldedConv | StandardisedConv)):
                setattr(module, name, FixedConv(child))
    return changed.requires_grad_(False)


class FixedConv(nn.Module):
    """A convolution with constant weights, and the zeros that it would see in a padded image."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight, bias = _kernel(conv)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.stride, self.dilation, self.groups = conv.stride, conv.dilation, conv.groups
        self.zeros = _zeros_around(conv)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        (top, bottom), (left, right) = self.zeros
        padding: tuple[int, int] | int = 0
        if top == bottom and left == right:
            padding = (top, left)
        else:
            x = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class MaskedWindows(nn.Module):
    """`Windowed` as dense attention with a mask, which holds for maps of any size. Its cost is that of all pairs."""

    def __init__(self, kind: Windowed) -> None:
        super().__init__()
        self.similarity, self.window = kind.similarity, kind.window

    def forward(
        self,
        query: Float[Tensor, "b h n c"],
        key: Float[Tensor, "b h n c"],
        value: Float[Tensor, "b h n d"],
        blocked: Bool[Tensor, "#b 1 1 n"] | None = None,
        size: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "b h n d"]:
        """See `Windowed`; nothing is padded."""
        assert blocked is None
        outside = windowed_blocked(size or (query.shape[2],), self.window, device=query.device)
        return attend(query, key, value, outside, similarity=self.similarity)


class EvenSides(nn.Module):
    """A backbone that begins with blocks of two by two pixels: zeros complete an odd side, as padding does."""

    def __init__(self, backbone: ConvNet) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(
        self, images: Float[Tensor, "b 3 h w"], padding_mask: Bool[Tensor, "b h w"] | None = None
    ) -> list[Features]:
        # -side % 2, in a form in which torch sees that no map is empty
        below, right = ((side + 1) // 2 * 2 - side for side in images.shape[2:])
        even = functional.pad(images, (0, right, 0, below))
        features: list[Features] = self.backbone(even, padding_mask)
        return features


def _kernel(conv: nn.Conv2d) -> tuple[Float[Tensor, "c2 c k k"], Float[Tensor, " c2"]]:
    """The weights and the bias that `conv` computes with."""
    if isinstance(conv, FoldedConv):
        weight, shift = conv.kernel_and_bias()
        return weight.detach(), shift.detach()
    if isinstance(conv, StandardisedConv):
        assert conv.bias is not None
        return conv.kernel().detach(), conv.bias.detach()
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
    return conv.weight.detach(), bias


def _zeros_around(conv: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros (before, after) of rows and of columns."""
    if not _is_same(conv):
        assert not isinstance(conv.padding, str)
        return (conv.padding[0],) * 2, (conv.padding[1],) * 2
    rows, columns = (
        (before := (max(kernel - step, 0) // 2 if step > 1 else kernel // 2), kernel - 1 - before)
        for kernel, step in zip(conv.kernel_size, conv.stride, strict=True)
    )
    return rows, columns


def _is_same(conv: nn.Conv2d) -> bool:
    """Whether `conv` has "same" padding. timm's class is known by its name, since timm may not be installed."""
    if isinstance(conv, FoldedConv):
        return conv.same or conv.is_depthwise
    return type(conv).__name__ == "Conv2dSame"
