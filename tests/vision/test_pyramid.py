"""The pyramid uses every level, and no value crosses the border between image and padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detr_mini.vision.convnet import ConvNet
from detr_mini.vision.features import Features
from detr_mini.vision.pyramid import TopDown

SIDES = st.integers(1, 70)


def network(levels: int) -> tuple[ConvNet, TopDown]:
    torch.manual_seed(0)
    channels = (6, 8, 12, 10)[:levels]
    net = ConvNet(channels=channels, blocks=(1,) * levels)
    return net, TopDown(channels[1:-1], channels[-1])


def fused(net: ConvNet, top_down: TopDown, images: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    levels = net(images, mask)
    return top_down(levels[-1].tensor, levels[1:-1])


def ceil_to(number: int, stride: int) -> int:
    return -(-number // stride) * stride


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([3, 4]), st.lists(st.tuples(SIDES, SIDES), min_size=2, max_size=3))
@example(4, [(64, 32), (32, 64)])
@example(4, [(36, 70), (1, 1)])
def test_padding_changes_no_fused_feature(levels: int, sizes: list[tuple[int, int]]) -> None:
    net, top_down = (part.double() for part in network(levels))  # in float32 other shapes round by 1e-5 otherwise
    stride = net.strides[-1]
    height, width = (ceil_to(max(side), stride) for side in zip(*sizes, strict=True))
    images = torch.zeros(len(sizes), 3, height, width, dtype=torch.float64)
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for row, (h, w) in enumerate(sizes):
        images[row, :, :h, :w], mask[row, :h, :w] = torch.randn(3, h, w, dtype=torch.float64), False
    together = fused(net, top_down, images, mask)
    for row, (h, w) in enumerate(sizes):
        own = (slice(row, row + 1), ..., slice(ceil_to(h, stride)), slice(ceil_to(w, stride)))
        exact = (h % stride, w % stride) == (0, 0)
        alone = fused(net, top_down, images[own], None if exact else mask[own])
        torch.testing.assert_close(
            together[row : row + 1, :, : alone.shape[2], : alone.shape[3]], alone, rtol=1e-10, atol=1e-10
        )
        outside = together[row].clone()
        outside[:, : ceil_to(h, 4) // 4, : ceil_to(w, 4) // 4] = 0
        assert not outside.any()


@pytest.mark.parametrize(("levels", "stride"), [(2, 4), (3, 4), (4, 4)])
def test_the_finest_fused_level_is_the_backbones_second(levels: int, stride: int) -> None:
    net, top_down = network(levels)
    answer = fused(net, top_down, torch.randn(2, 3, 64, 32), None)
    assert answer.shape == (2, net.channels[-1], 64 // stride, 32 // stride)


def test_every_level_affects_the_result() -> None:
    net, top_down = network(4)
    levels = [
        Features(f.tensor.detach().requires_grad_(), None, f.stride) for f in net(torch.randn(1, 3, 64, 64), None)
    ]
    top_down(levels[-1].tensor, levels[1:-1]).square().sum().backward()
    assert all(level.tensor.grad is not None and level.tensor.grad.any() for level in levels[1:])


def test_a_coarse_cell_becomes_a_square_of_finer_cells() -> None:
    top_down = TopDown((4,), 6)
    for parameter in top_down.parameters():  # nothing but the upsampling is left
        torch.nn.init.zeros_(parameter)
    top = torch.randn(1, 6, 2, 3)
    answer = top_down(top, [Features(torch.randn(1, 4, 4, 6), None, 8)])
    torch.testing.assert_close(answer, top.repeat_interleave(2, 2).repeat_interleave(2, 3))
