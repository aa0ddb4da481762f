"""Convolutions of published networks, faster: the same results, computed differently (times in docs/log/speed.md).

A frozen norm after a convolution becomes a factor on its kernel and a shift, and costs nothing on the feature map. In
bfloat16 on a CPU, torch is slow at two gradients of depthwise convolutions: that of the image with stride 2, and that
of a 5x5 kernel. They are composed of other gradients, which are ten times faster.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, for ceil(side / stride) outputs (TensorFlow's "same" padding; an odd zero goes after)."""
    zeros = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return zeros // 2, zeros - zeros // 2


def depthwise(
    x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c 1 k k"], bias: Float[Tensor, " c"] | None, stride: int
) -> Float[Tensor, "b c h2 w2"]:
    """`depthwise_plain`, or `depthwise_by_parts` where that is faster: for training in bfloat16 on a CPU."""
    if x.device.type == "cpu" and torch.is_grad_enabled():
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        if x.dtype == torch.bfloat16 and weight.shape[2] in (3, 5) and stride in (1, 2):
            return depthwise_by_parts(x, weight, bias, stride)
    return depthwise_plain(x, weight, bias, stride)


def depthwise_plain(
    x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c 1 k k"], bias: Float[Tensor, " c"] | None, stride: int
) -> Float[Tensor, "b c h2 w2"]:
    """A depthwise convolution (each channel by itself) with an odd kernel and "same" padding."""
    if stride == 1:
        return functional.conv2d(x, weight, bias, padding=weight.shape[2] // 2, groups=x.shape[1])
    top, bottom = same_padding(x.shape[2], weight.shape[2], stride)
    left, right = same_padding(x.shape[3], weight.shape[3], stride)
    padded = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(padded, weight, bias, stride, groups=x.shape[1])


def depthwise_by_parts(
    x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c 1 k k"], bias: Float[Tensor, " c"] | None, stride: int
) -> Float[Tensor, "b c h2 w2"]:
    """`depthwise_plain` for 3x3 and 5x5 kernels and strides 1 and 2, with gradients composed of fast ones."""
    y: Tensor = _ByParts.apply(x, weight, bias, stride)
    return y


class _ByParts(torch.autograd.Function):
    """torch's forward pass, and gradients by `image_gradient` and `kernel_gradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        kernel = weight.shape[2]
        padding, given = kernel // 2, x
        if stride == 2:
            # a 5x5 kernel needs one more row and column, which its gradient touches
            more = kernel // 5
            top, bottom = same_padding(x.shape[2], kernel, 2)
            left, right = same_padding(x.shape[3], kernel, 2)
            padding, given = 0, functional.pad(x, (left, right + more, top, bottom + more))
        ctx.save_for_backward(given, weight)
        ctx.stride, ctx.size = stride, (x.shape[2], x.shape[3])
        return functional.conv2d(given, weight, bias, stride, padding, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        given, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=_layout(given))
        of_x = image_gradient(gradient, weight, ctx.size, ctx.stride) if wanted[0] else None
        of_weight = kernel_gradient(gradient, given, weight, ctx.stride) if wanted[1] else None
        return of_x, of_weight, gradient.sum((0, 2, 3)) if wanted[2] else None, None


def image_gradient(
    gradient: Float[Tensor, "b c h2 w2"], weight: Float[Tensor, "c 1 k k"], size: tuple[int, int], stride: int
) -> Float[Tensor, "b c h w"]:
    """The gradient of an image of `size`. For stride 2 it is that of stride 1, with zeros in every other row and column
    of `gradient`."""
    kernel, whole = weight.shape[2], gradient
    if stride == 2:
        shape = (*gradient.shape[:2], *size)
        whole = torch.empty(shape, dtype=gradient.dtype, memory_format=_layout(gradient)).zero_()
        top, left = (kernel // 2 - same_padding(side, kernel, 2)[0] for side in size)
        whole[:, :, top::2, left::2] = gradient
    # this gradient does not depend on the image, so any tensor of its shape will do
    found: Tensor = _torch_gradients(whole, whole, weight, 1, kernel // 2, [True, False, False])[0]
    return found


def kernel_gradient(
    gradient: Float[Tensor, "b c h2 w2"], x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c 1 k k"], stride: int
) -> Float[Tensor, "c 1 k k"]:
    """The gradient of a kernel on `x`, which is already padded for stride 2.

    For a 5x5 kernel it consists of four 3x3 gradients with stride 1: one for each corner of the kernel with stride 1,
    or one for each combination of even and odd rows and columns with stride 2. Each uses its own part of the image,
    since row a + s i of the kernel meets row y of the output at row a + s (y + i) of the image.
    """
    if weight.shape[2] == 3:
        return _of_kernel(gradient, x, weight, stride, 2 - stride)
    padded = functional.pad(x, (2, 2, 2, 2)) if stride == 1 else x
    found = weight.new_empty(len(weight), 1, 6, 6)
    starts = (0, 2) if stride == 1 else (0, 1)
    height, width = (stride * (side + 2) for side in gradient.shape[2:])
    for top in starts:
        for left in starts:
            part = padded[:, :, top : top + height : stride, left : left + width : stride]
            part = part.contiguous(memory_format=_layout(gradient))
            corner = found[:, :, top : top + 3 * stride : stride, left : left + 3 * stride : stride]
            corner.copy_(_of_kernel(gradient, part, corner, 1, 0))
    return found[:, :, :5, :5]


def _of_kernel(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    found: Tensor = _torch_gradients(gradient, x, weight, stride, padding, [False, True, False])[1]
    return found


def _torch_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, wanted: list[bool]
) -> tuple[Any, ...]:
    """torch's gradients of image, kernel and bias, those that are `wanted`."""
    settings = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], x.shape[1]
    found: tuple[Any, ...] = torch.ops.aten.convolution_backward(gradient, x, weight, None, *settings, wanted)
    return found


def _layout(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


class FoldedConv(nn.Conv2d):
    """A convolution together with the frozen norm after it: s (w * x) + t = (s w) * x + t.

    The kernel is trained as before. The norm stays in its place, to keep its name in checkpoints (`FoldedNorm`).
    """

    def __init__(self, conv: nn.Conv2d, norm: FoldedNorm, same: bool) -> None:
        """`same`: use "same" padding instead of `conv.padding`."""
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            (conv.stride[0], conv.stride[1]),
            conv.padding if isinstance(conv.padding, str) else (conv.padding[0], conv.padding[1]),
            (conv.dilation[0], conv.dilation[1]),
            groups=conv.groups,
            bias=False,
            device="meta",
        )
        self.weight, self.same = conv.weight, same
        self._norm = (norm,)  # in a tuple, it is not registered as a submodule

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        weight, shift = self.kernel_and_bias()
        if self.is_depthwise:
            return depthwise(x, weight, shift, self.stride[0])
        if self.same:
            sides = zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True)
            x = functional.pad(x, [zeros for side in sides for zeros in same_padding(*side)])
        return functional.conv2d(x, weight, shift, self.stride, self.padding, self.dilation, self.groups)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is convolved by itself, always with "same" padding."""
        return self.groups == self.in_channels == self.out_channels

    def kernel_and_bias(self) -> tuple[Float[Tensor, "c2 c k k"], Float[Tensor, " c2"]]:
        """s w and t."""
        scale, shift = self._norm[0].scale_and_shift()
        return self.weight * scale[:, None, None, None], shift


class FoldedNorm(nn.Module):
    """A frozen norm that a `FoldedConv` applies. Only its activation is left here, where it has one."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: Any) -> None:
        """`norm`: timm's FrozenBatchNormAct2d or torchvision's FrozenBatchNorm2d. Its buffers keep their names."""
        super().__init__()
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.eps = float(norm.eps)
        self.act: Callable[[Tensor], Tensor] = getattr(norm, "act", None) or nn.Identity()
        self._known: tuple[tuple[Tensor, Tensor], list[tuple[Tensor, int]]] | None = None
        """s and t, and the buffers that they were computed from with their versions."""

    def scale_and_shift(self) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """s and t in y = s x + t, computed once: until weights are loaded or the module moves.

        Of buffers that were made in inference mode, whose changes torch does not count, they are computed every time.
        """
        if torch.compiler.is_compiling():
            return self._computed()
        buffers, known = (self.weight, self.bias, self.running_mean, self.running_var), self._known
        if known is None or any(b is not own or b._version != v for b, (own, v) in zip(buffers, known[1], strict=True)):
            if any(buffer.is_inference() for buffer in buffers):
                return self._computed()
            made_of = [(buffer, buffer._version) for buffer in buffers]
            with torch.inference_mode(False), torch.no_grad():  # an evaluation may come first, and training use them
                self._known = known = self._computed(), made_of
        return known[0]

    def _computed(self) -> tuple[Tensor, Tensor]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def __getstate__(self) -> dict[str, Any]:
        """Without what is known: the tensors of a copy count their versions from 0 again."""
        return {**vars(self), "_known": None}

    def _apply(self, *args: Any, **kwargs: Any) -> FoldedNorm:
        self._known = None
        super()._apply(*args, **kwargs)
        return self

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.act(x)


def fold_frozen_norms(network: nn.Module) -> None:
    """`fold_norms` for timm's EfficientNets."""
    from timm.layers import Conv2dSame, FrozenBatchNormAct2d

    fold_norms(network, FrozenBatchNormAct2d, Conv2dSame)


def fold_norms(network: nn.Module, norm_kind: type[nn.Module], *same_kinds: type[nn.Module]) -> None:
    """Fold each frozen norm (`norm_kind`) into the convolution before it, in place. The names of all weights stay.

    For networks that list a convolution right before its norm: with kernels over all channels, or over one if they are
    square, odd and undilated. `same_kinds`: convolutions with TensorFlow's "same" padding.
    """
    for module in list(network.modules()):
        children = list(module.named_children())
        for (name, conv), (behind, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, norm_kind):
                folded = FoldedNorm(norm)
                setattr(module, behind, folded)
                setattr(module, name, FoldedConv(conv, folded, isinstance(conv, same_kinds)))
