"""The small network: standardised kernels, constant variance, no effect of padding."""

from __future__ import annotations

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detr_mini.data.collate import collate
from detr_mini.structures import Batch, Target
from detr_mini.vision.convnet import RELU_GAIN, ConvNet, StandardisedConv


def padded(images: list[torch.Tensor], stride: int) -> Batch:
    empty = torch.zeros(0)
    none = [Target(empty.view(0, 4), empty.long(), 0, (1, 1), empty.bool(), empty) for _ in images]
    return collate(images, none, stride)


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


def test_features_have_the_stated_strides_and_channels() -> None:
    torch.manual_seed(0)
    net = ConvNet(channels=(16, 32, 48, 64), blocks=(0, 1, 2, 1))
    levels = net(torch.randn(4, 3, 64, 96), None)
    for level, stride, channels in zip(levels, net.strides, net.channels, strict=True):
        assert level.stride == stride
        assert level.tensor.shape == (4, channels, 64 // stride, 96 // stride)
        assert 0.3 < level.tensor.square().mean() < 6


def test_a_kernel_and_a_relu_keep_the_variance_of_noise() -> None:
    torch.manual_seed(0)
    conv, noise = StandardisedConv(32, 64), torch.randn(4, 32, 16, 16)
    inside = conv(noise)[..., 1:-1, 1:-1]  # at the border a kernel sees zeros
    assert 0.9 < inside.var() < 1.1
    assert 0.95 < (torch.relu(torch.randn(10**5)) * RELU_GAIN).var() < 1.05


def test_a_constant_kernel_gives_zeros_and_finite_gradients() -> None:
    conv = StandardisedConv(3, 4)
    with torch.no_grad():
        conv.weight.fill_(0.7)
    answer = conv(torch.randn(1, 3, 8, 8))
    answer.square().sum().backward()
    assert answer.abs().max() < 1e-3
    assert all(p.grad is not None and p.grad.isfinite().all() for p in conv.parameters())


def test_a_gain_scales_its_own_channel_only() -> None:
    torch.manual_seed(0)
    conv, x = StandardisedConv(3, 4), torch.randn(1, 3, 8, 8)
    before = conv(x)
    with torch.no_grad():
        conv.gain[2] = 3.0
    torch.testing.assert_close(conv(x), before * torch.tensor([1.0, 1, 3, 1]).view(1, 4, 1, 1))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(5, 70), st.integers(5, 70)), min_size=2, max_size=3))
@example([(64, 32), (32, 64)])  # alone, these need no mask at all
@example([(1, 1), (48, 48)])
def test_padding_changes_no_feature_on_any_level(sizes: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    net = ConvNet(channels=(4, 8, 12, 16), blocks=(0, 1, 1, 1))
    images = [torch.randn(3, *size) for size in sizes]
    whole = padded(images, 16)
    together = net(whole.images, whole.mask())
    for i, image in enumerate(images):
        one = padded([image], 16)
        for a, b in zip(net(one.images, one.mask()), together, strict=True):
            h, w = a.tensor.shape[-2:]
            torch.testing.assert_close(b.tensor[i : i + 1, :, :h, :w], a.tensor, rtol=1e-5, atol=1e-5)
            assert b.tensor[i, :, h:].abs().sum() == b.tensor[i, :, :, w:].abs().sum() == 0
