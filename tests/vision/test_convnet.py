"""The small network: standardised kernels, signals that keep their size, padding that stays out."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.data.collate import collate
from detr_mini.structures import Target
from detr_mini.vision.convnet import ConvNet, StandardisedConv
from detr_mini.vision.pyramid import TopDown


def standardised(conv: StandardisedConv) -> torch.Tensor:
    """The kernel that a convolution really uses: its answers to unit impulses."""
    size = conv.kernel_size[0]
    with torch.no_grad():
        impulses = torch.eye(conv.in_channels * size * size).view(-1, conv.in_channels, size, size)
        plain = torch.nn.functional.pad(impulses, [size // 2] * 4)
        answer = conv(plain)[:, :, size // 2 : -(size // 2) or None, size // 2 : -(size // 2) or None]
        middle = answer[:, :, size // 2, size // 2] - conv.bias
    return middle.T


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 8), st.integers(1, 8), st.sampled_from([1, 3]), st.floats(-3, 3))
def test_kernels_have_mean_zero_and_variance_one_over_fan_in(
    inputs: int, outputs: int, kernel: int, shift: float
) -> None:
    torch.manual_seed(0)
    conv = StandardisedConv(inputs, outputs, kernel)
    with torch.no_grad():
        conv.weight.mul_(3).add_(shift)
    kernels = standardised(conv)
    fan_in = inputs * kernel**2
    torch.testing.assert_close(kernels.mean(1), torch.zeros(outputs), rtol=0, atol=1e-4)
    torch.testing.assert_close(kernels.var(1, correction=0), torch.full((outputs,), 1 / fan_in), rtol=2e-2, atol=1e-4)


def test_features_have_the_strides_and_channels_they_say_and_keep_their_size() -> None:
    torch.manual_seed(0)
    net = ConvNet(channels=(32, 48, 64), blocks=(1, 2, 1))
    levels = net(torch.randn(4, 3, 64, 96), None)
    for level, stride, channels in zip(levels, net.strides, net.channels, strict=True):
        assert level.stride == stride
        assert level.tensor.shape == (4, channels, 64 // stride, 96 // stride)
        assert 0.3 < level.tensor.square().mean() < 6


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(5, 70), st.integers(5, 70)), min_size=2, max_size=3))
def test_an_image_alone_and_padded_has_the_same_features_on_every_level(sizes: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    net, top_down = ConvNet(channels=(8, 12, 16), blocks=(1, 1, 1)), TopDown((12,), 16)
    empty = torch.zeros(0)

    def collated(indices: range | list[int]):
        images = [torch.randn(3, *sizes[i], generator=torch.Generator().manual_seed(i)) for i in indices]
        none = [Target(empty.view(0, 4), empty.long(), i, sizes[i], empty.bool(), empty) for i in indices]
        return collate(images, none, 16)

    whole = collated(range(len(sizes)))
    together = net(whole.images, whole.mask())
    fine = top_down(together[-1].tensor, together[1:-1])
    for i in range(len(sizes)):
        one = collated([i])
        alone = net(one.images, one.mask())
        for a, b in zip(alone, together, strict=True):
            h, w = a.tensor.shape[-2:]
            torch.testing.assert_close(b.tensor[i : i + 1, :, :h, :w], a.tensor, rtol=1e-4, atol=1e-5)
        own = top_down(alone[-1].tensor, alone[1:-1])
        h, w = own.shape[-2:]
        torch.testing.assert_close(fine[i : i + 1, :, :h, :w], own, rtol=1e-4, atol=1e-5)
