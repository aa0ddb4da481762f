"""Padding must not leak into any network."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from detr_mini.vision.padding import PaddingGuard, border_cells, cells_on_padding, hide

SIZES = st.integers(1, 32)


def padding_of(sizes: list[tuple[int, int]], height: int, width: int) -> torch.Tensor:
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for row, (h, w) in enumerate(sizes):
        mask[row, :h, :w] = False
    return mask


@settings(deadline=None)
@given(st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=3), st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_a_cell_is_padding_only_if_all_its_pixels_are(sizes: list[tuple[int, int]], stride: int) -> None:
    cells = cells_on_padding(padding_of(sizes, 32, 32), stride)
    up = -(-torch.tensor(sizes) // stride)
    assert torch.equal((~cells[:, :, 0]).sum(1), up[:, 0])
    assert torch.equal((~cells[:, 0]).sum(1), up[:, 1])


@settings(deadline=None)
@given(SIZES, SIZES)
def test_cells_on_padding_can_be_computed_in_two_steps(h: int, w: int) -> None:
    mask = padding_of([(h, w)], 32, 32)
    assert torch.equal(cells_on_padding(cells_on_padding(mask, 4), 8), cells_on_padding(mask, 32))


def test_one_visible_pixel_keeps_one_cell_visible() -> None:
    cells = cells_on_padding(padding_of([(1, 1)], 64, 96), 32)
    assert (~cells).sum() == 1
    assert not cells[0, 0, 0]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(4, 4, 5, padding=4, dilation=2),
        nn.AdaptiveAvgPool2d(1),
    )


@settings(deadline=None, max_examples=30)
@given(SIZES, SIZES, st.integers(0, 2**31))
def test_padding_does_not_change_the_output_of_a_guarded_network(h: int, w: int, seed: int) -> None:
    net = network()
    guard = PaddingGuard(net)
    image = torch.randn(1, 3, h, w, generator=torch.Generator().manual_seed(seed))
    padded = torch.full((2, 3, 32, 32), 7.0)  # what stands on padding does not matter
    padded[:1, :, :h, :w] = image
    alone = net(image)  # torch's own padding at its border, on an image of any size
    with guard.guarding(padding_of([(h, w), (32, 32)], 32, 32)):
        torch.testing.assert_close(net(padded)[:1], alone, rtol=1e-5, atol=1e-6)


def test_a_guard_without_a_mask_changes_nothing() -> None:
    x = torch.randn(2, 3, 32, 32)
    plain, guarded = network(), network()
    guard = PaddingGuard(guarded)
    assert torch.equal(plain(x), guarded(x))
    with guard.guarding(None):
        assert torch.equal(plain(x), guarded(x))


def test_a_deep_copy_has_its_own_guard() -> None:
    class Guarded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.guard = PaddingGuard(self.net)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            with self.guard.guarding(mask):
                return self.net(x)

    first = Guarded()
    second = copy.deepcopy(first)
    x, mask = torch.randn(1, 3, 32, 32), padding_of([(20, 9)], 32, 32)
    assert torch.equal(first(x, mask), second(x, mask))
    assert not torch.equal(second(x, mask), second.net(x))


def test_a_padded_size_that_is_no_multiple_of_the_stride_is_refused() -> None:
    net = network()
    with PaddingGuard(net).guarding(padding_of([(20, 20)], 30, 30)), pytest.raises(ValueError, match="multiple of"):
        net(torch.randn(1, 3, 30, 30))


LAYOUTS = (torch.contiguous_format, torch.channels_last)


def deep_network(layout: torch.memory_format) -> nn.Sequential:
    """Strides, dilation, activations that keep their result and those that keep their input, a 1x1 beside a 5x5."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
        nn.Hardtanh(0, 6),
        nn.Conv2d(8, 12, 1),
        nn.Conv2d(12, 12, 3, stride=2, padding=2, dilation=2),
        nn.SiLU(),
        nn.Conv2d(12, 6, 3, padding=1),
    )
    net.to(memory_format=layout)
    return net


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=3), st.integers(0, 2**31), st.sampled_from(LAYOUTS))
def test_clearing_the_border_equals_clearing_all_padding(
    sizes: list[tuple[int, int]], seed: int, layout: torch.memory_format
) -> None:
    mask = padding_of(sizes, 32, 32)
    images = torch.randn(len(sizes), 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    results = []
    for everywhere in (True, False):
        net = deep_network(layout)
        guard = PaddingGuard(net)
        if everywhere:
            guard._hide_border = guard._hide  # type: ignore[method-assign]
            for layer in net:
                layer._forward_pre_hooks.clear()
                if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1:
                    layer.register_forward_pre_hook(guard._hide)
        with guard.guarding(mask):
            output = guard.hide(net(images.contiguous(memory_format=layout)))
        output.square().sum().backward()
        results.append((output, *(p.grad for p in net.parameters())))
    for everything, border in zip(*results, strict=True):
        torch.testing.assert_close(border, everything, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_the_callers_images_are_never_written_to(layout: torch.memory_format) -> None:
    net = deep_network(layout)
    images = torch.randn(2, 3, 32, 32).contiguous(memory_format=layout)
    before = images.clone()
    with PaddingGuard(net).guarding(padding_of([(9, 20), (32, 32)], 32, 32)):
        net(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_only_the_input_is_passed_over_as_a_whole(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass over the map at each layer took a third of the time of a detection."""
    hidden: list[int] = []

    def counted(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        hidden.append(x.shape[1])
        return hide(x, mask)

    monkeypatch.setattr("detr_mini.vision.padding.hide", counted)
    net, images = deep_network(layout), torch.randn(2, 3, 32, 32).contiguous(memory_format=layout)
    with PaddingGuard(net).guarding(padding_of([(9, 20), (32, 32)], 32, 32)):
        net(images)
    assert hidden == [3]


def test_border_cells_are_the_padding_within_reach_of_a_visible_cell() -> None:
    cells = border_cells(padding_of([(2, 3)], 6, 6), 1)
    assert [divmod(int(cell), 6) for cell in cells] == [(0, 3), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]
    assert not len(border_cells(padding_of([(6, 6)], 6, 6), 2))
