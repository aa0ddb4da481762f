"""A model's form for images of one shape: nothing is padded, no mask is computed, constant kernels are folded.

A map then has ceil(side / stride) cells, the same as the visible cells of a padded image, and "padding changes nothing"
says that the results agree. Only what depends on an even side is replaced: see `without_padding`. Exported files hold
this form. `detect` and `evaluate` compute with it on a CPU where the model is a `MiniDETR`, or a `GroundedDETR` without
captions (times in docs/log/exported-files.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from types import FunctionType, NoneType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from detr_mini.models.grounded import GroundedDETR
from detr_mini.models.mini import MiniDETR
from detr_mini.models.protocol import DetectionModel, EvaluatedModel
from detr_mini.structures import Batch, DetectorOutput
from detr_mini.vision.backbone import Backbone
from detr_mini.vision.convnet import ConvNet, StandardisedConv
from detr_mini.vision.fast_depthwise import FoldedConv
from detr_mini.vision.features import Features
from detr_mini.vision.padding import PaddingGuard

Compute = Callable[[Batch], Iterator[tuple[Sequence[int], DetectorOutput]]]
"""From a batch to the outputs for some of its rows at a time."""
PLAIN = {bool, int, float, str, tuple, NoneType, FunctionType}
"""Kinds of settings that a part may keep beside its tensors."""
FIRST = len(vars(nn.Module()))
"""Where a part's own settings begin, after those that every module has, such as its mode."""
_forms: WeakKeyDictionary[nn.Module, tuple[list[object], nn.Module]] = WeakKeyDictionary()
"""Of each model: what its parts and their tensors and settings were when the form was made, and the form."""


def fastest(model: EvaluatedModel, device: torch.device | str) -> Compute:
    """How `model` computes on `device`: itself, or on a CPU its form without padding, images of one shape together.

    `MiniDETR` has such a form, and `GroundedDETR` has one for batches without captions. Other models, and those with
    hooks or a backbone of one's own, compute themselves. The form is made for the first batch that takes it, and again
    after parts, their settings or their tensors have changed, but for changes that torch does not count: through
    `.data`, and of tensors that were made in inference mode.
    """
    on_cpu, made = torch.device(device).type == "cpu", cache(partial(_form_of, model))

    def compute(batch: Batch) -> Iterator[tuple[Sequence[int], DetectorOutput]]:
        form = made() if on_cpu and batch.captions is None else None
        if form is None:
            yield range(len(batch)), model(batch.images, batch.mask(), **batch.with_captions)
            return
        for (height, width), rows in _by_shape(batch).items():
            images = batch.images[rows, :, :height, :width]
            yield rows, form(images.contiguous(memory_format=torch.channels_last))

    return compute


def _form_of(model: Any) -> nn.Module | None:
    if type(model) not in (MiniDETR, GroundedDETR) or not isinstance(model.backbone, ConvNet | Backbone):
        return None
    state, unused = list[object](), _of_captions(model)
    waiting: list[nn.Module] = [model]
    while waiting:  # `modules`, `parameters` and `buffers` take several milliseconds to walk through
        module = waiting.pop()
        waiting += [part for part in module._modules.values() if part is not None and id(part) not in unused]
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            if not isinstance(getattr(hook, "__self__", None), PaddingGuard):
                return None
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                state.append((0 if tensor.is_inference() else tensor._version, tensor.data_ptr()))
        if module is not model:  # the parts are kept alive, so that no other takes the place of one; the model is not
            state.append(module)
        own = islice(vars(module).items(), FIRST, None)
        state += [value for name, value in own if type(value) in PLAIN and name[0] != "_"]
    known = _forms.get(model)
    if known is None or known[0] != state:
        with torch.inference_mode(False), torch.no_grad():
            known = state, without_padding(model).to(memory_format=torch.channels_last)
        _forms[model] = known
    return known[1]


def _of_captions(model: Any) -> dict[int, Any]:
    """The ids of the parts that only captions need, each with None: `copy.deepcopy` then leaves them out."""
    return {id(getattr(model, name)): None for name in getattr(model, "caption_parts", ())}


def _by_shape(batch: Batch) -> dict[tuple[int, int], list[int]]:
    """The rows of a batch by the height and width of their images without padding."""
    height, width = batch.images.shape[2:]
    if not batch.has_padding:
        return {(height, width): list(range(len(batch)))}
    visible = ~batch.padding_mask
    groups: dict[tuple[int, int], list[int]] = {}
    for row, (h, w) in enumerate(zip(visible[:, :, 0].sum(1).tolist(), visible[:, 0].sum(1).tolist(), strict=True)):
        groups.setdefault((h, w), []).append(row)
    return groups


def without_padding(model: DetectionModel) -> nn.Module:
    """A copy of `model` in evaluation mode that takes images of any size, unpadded, and no captions.

    A convolution with "same" padding places its kernel by whether a side is even, and sides of padded maps always are:
    `FixedConv` keeps that place on odd sides. Kernels that are computed from weights in every call are computed once.
    """
    changed: nn.Module = copy.deepcopy(model, _of_captions(model)).eval()
    replace_parts(changed, lambda part: isinstance(part, ConvNet), EvenSides)
    replace_parts(changed, _is_fixed, FixedConv)
    return changed.requires_grad_(False)


def replace_parts(model: nn.Module, chosen: Callable[[nn.Module], bool], form: Callable[[Any], nn.Module]) -> None:
    """Put `form(part)` in the place of each part of `model` that is `chosen`."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if chosen(child):
                setattr(module, name, form(child))


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


def _is_fixed(part: nn.Module) -> bool:
    """Whether it is a convolution whose kernel or place has to be fixed."""
    return isinstance(part, nn.Conv2d) and (_is_same(part) or isinstance(part, FoldedConv | StandardisedConv))


def _is_same(conv: nn.Conv2d) -> bool:
    """Whether `conv` has "same" padding. timm's class is known by its name, since timm may not be installed."""
    if isinstance(conv, FoldedConv):
        return conv.same or conv.is_depthwise
    return type(conv).__name__ == "Conv2dSame"
