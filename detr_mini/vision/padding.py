"""Padding must not leak: an image has exactly the same features in a padded batch as alone.

Without padding, a convolution sees zeros beyond the border of an image. `PaddingGuard` puts the same zeros on padding,
in a network that was written without padding in mind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def cells_on_padding(padding_mask: Bool[Tensor, "b h w"], stride: int) -> Bool[Tensor, "b hh ww"]:
    """Which cells of a map with this stride are padding: those with only padding pixels.

    So every image has at least one visible cell. Height and width must be multiples of `stride`.
    """
    while stride % 2 == 0:  # halving is vectorised; torch's `all` over a short axis is not
        padding_mask = padding_mask[:, ::2] & padding_mask[:, 1::2]
        padding_mask = padding_mask[:, :, ::2] & padding_mask[:, :, 1::2]
        stride //= 2
    if stride == 1:
        return padding_mask
    b, h, w = padding_mask.shape
    return padding_mask.reshape(b, h // stride, stride, w // stride, stride).all(4).all(2)


def hide(x: Float[Tensor, "b c h w"], padding_mask: Bool[Tensor, "b h w"] | None) -> Float[Tensor, "b c h w"]:
    """`x` with zeros on padding, as beyond the border of an image without padding.

    The memory layout of `x` stays. masked_fill would lose channels_last, and slow down all that follows.
    """
    return x if padding_mask is None else torch.where(padding_mask[:, None], 0.0, x)


def border_cells(padding: Bool[Tensor, "b h w"], reach: int) -> Int[Tensor, " n"]:
    """Flat indices into (b, h, w) of the padding within `reach` cells of a visible cell.

    It is all padding that a kernel of width 2 `reach` + 1 on a visible cell covers. Padding must lie to the right of
    and below what is visible, so the nearest visible cell of any cell lies above and to the left of it.
    """
    rows, columns = ((torch.arange(n, device=padding.device) - reach).clamp(min=0) for n in padding.shape[1:])
    near = ~padding[:, rows[:, None], columns]
    return (near & padding).flatten().nonzero()[:, 0]


class _ClearCells(torch.autograd.Function):
    """Set some cells of a map to zero in place, and the same cells of its gradient.

    An earlier layer may keep this map for its gradient. Writing to it is safe: the cells are padding, where every
    gradient is zero, so no other gradient changes. The write goes past autograd, which would refuse it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cells: Tensor) -> Tensor:
        ctx.save_for_backward(cells)
        ctx.layout = _layout(x)
        return _clear(x.data, cells).view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (cells,) = ctx.saved_tensors
        return _clear(gradient.contiguous(memory_format=ctx.layout), cells), None


def _clear(x: Float[Tensor, "b c h w"], cells: Int[Tensor, " n"]) -> Float[Tensor, "b c h w"]:
    if x.is_contiguous():
        area = x.shape[2] * x.shape[3]
        x.flatten(2)[cells // area, :, cells % area] = 0
    else:
        x.permute(0, 2, 3, 1).view(-1, x.shape[1]).index_fill_(0, cells, 0)
    return x


def _layout(x: Float[Tensor, "b c h w"]) -> torch.memory_format | None:
    """How a map lies in memory without gaps: channels first or last; None if neither."""
    layouts = torch.contiguous_format, torch.channels_last
    return next((layout for layout in layouts if x.is_contiguous(memory_format=layout)), None)


class PaddingGuard:
    """Hides the padding from every layer of a network that looks beyond its own cell.

    Convolutions with a kernel above 1 and max poolings see zeros on padding. A max pooling must follow a ReLU, so that
    zero is the lowest value. Global average pooling counts visible cells only. A layer finds its mask by the size of
    its input, so the padded size must be a multiple of the network's stride. Batch norms that update their statistics
    count padding, too: freeze them, or train on images of one size.

    A convolution needs zeros only within reach of its kernel from a visible cell. They are written in place, since a
    pass over the whole map at every layer would double a backbone's time on a CPU. No visible cell reads the padding
    further out, and `hide` clears it at the end.

    The mask is stored here during a forward pass, so only one thread at a time can use the network.
    """

    def __init__(self, network: nn.Module) -> None:
        self._masks: dict[tuple[int, int], Bool[Tensor, "b h w"]] = {}
        self._borders: dict[tuple[int, int, int], Int[Tensor, " n"]] = {}
        self._padding_mask: Bool[Tensor, "b h w"] | None = None
        self._entered = False
        # bound methods, so that a deep copy of the network gets its own guard
        for layer in network.modules():
            if isinstance(layer, nn.AdaptiveAvgPool2d):
                layer.register_forward_hook(self._average_visible)
            elif isinstance(layer, nn.MaxPool2d):
                layer.register_forward_pre_hook(self._hide)
            elif isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1:
                layer.register_forward_pre_hook(self._hide_border)

    @contextmanager
    def guarding(self, padding_mask: Bool[Tensor, "b h w"] | None) -> Iterator[None]:
        """Inside it, the network's input is padding where `padding_mask` is True. None costs nothing."""
        self._padding_mask = padding_mask
        try:
            yield
        finally:
            self._padding_mask, self._entered = None, False
            self._masks, self._borders = {}, {}

    def cells(self, height: int, width: int) -> Bool[Tensor, "b {height} {width}"] | None:
        """Which cells of a map of this size are padding; None without a mask."""
        mask = self._padding_mask
        if mask is None:
            return None
        if (height, width) not in self._masks:
            stride = mask.shape[1] // height
            if (height * stride, width * stride) != tuple(mask.shape[1:]):
                raise ValueError(
                    f"a map of {height} x {width} cells does not divide an image of {mask.shape[1]} x {mask.shape[2]} "
                    "pixels; pad images to a multiple of the model's stride"
                )
            # that of a finer map, if there is one, has less to look at
            finer = [own for (h, _), own in self._masks.items() if h % height == 0]
            mask = min((mask, *finer), key=lambda own: own.shape[1])
            self._masks[height, width] = cells_on_padding(mask, mask.shape[1] // height)
        return self._masks[height, width]

    def hide(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """`x` with zeros on padding."""
        return hide(x, self.cells(*x.shape[-2:]))

    def _hide(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return None if self._padding_mask is None else (self.hide(args[0]), *args[1:])

    def _hide_border(self, layer: nn.Conv2d, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._padding_mask is None:
            return None
        x, own = args[0], self._entered
        self._entered = True  # the network's input belongs to the caller and is never written to
        # elsewhere than on a CPU, the host would wait for the number of cells
        if not own or x.device.type != "cpu" or torch.compiler.is_compiling() or _layout(x) is None:
            return (self.hide(x), *args[1:])
        # with a stride, a window may begin at the last visible cell and extend a whole kernel beyond it
        reach = max(d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        key = (x.shape[2], x.shape[3], reach)
        if key not in self._borders:
            padding = self.cells(x.shape[2], x.shape[3])
            assert padding is not None
            self._borders[key] = border_cells(padding, reach)
        return (_ClearCells.apply(x, self._borders[key]), *args[1:])

    def _average_visible(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self._padding_mask is None:
            return None
        mask = self.cells(*args[0].shape[-2:])
        assert mask is not None
        visible = (~mask).sum((1, 2))[:, None, None, None]
        exact = torch.promote_types(output.dtype, torch.float32)
        return (self.hide(args[0]).sum((2, 3), keepdim=True, dtype=exact) / visible).to(output.dtype)
