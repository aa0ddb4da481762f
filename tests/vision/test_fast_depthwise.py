"""The fast forms equal the plain ones in output and gradients, for every size, stride, layout and precision."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from detr_mini.vision.fast_depthwise import (
    FoldedConv,
    FoldedNorm,
    depthwise,
    depthwise_by_parts,
    depthwise_plain,
    fold_frozen_norms,
    image_gradient,
    kernel_gradient,
    same_padding,
)

timm = pytest.importorskip("timm", reason="the extra 'timm' is not installed")
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def gradients(form: object, tensors: list[Tensor], stride: int) -> tuple[Tensor, ...]:
    """Output, and gradients of all inputs for one and the same gradient of the output."""
    own = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    y = form(*own, stride)  # type: ignore[operator]
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return y, *torch.autograd.grad(y, own, weights)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 23), st.integers(1, 23), st.sampled_from([3, 5]), st.sampled_from([1, 2]), st.integers(1, 9),
    st.sampled_from(LAYOUTS), st.integers(0, 99),
)  # fmt: skip
def test_a_depthwise_convolution_and_its_gradients_equal_torchs(
    height: int, width: int, kernel: int, stride: int, channels: int, layout: torch.memory_format, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64).to(memory_format=layout)
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(channels, generator=generator, dtype=torch.float64)
    fast, plain = (gradients(form, [x, weight, bias], stride) for form in (depthwise_by_parts, depthwise_plain))
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_same_padding_equals_tensorflows() -> None:
    from timm.layers import Conv2dSame

    for kernel, stride, side in ((3, 1, 7), (3, 2, 7), (3, 2, 8), (5, 2, 7), (5, 2, 8), (5, 1, 4), (5, 2, 1)):
        conv = Conv2dSame(4, 4, kernel, stride, groups=4)
        x = torch.randn(1, 4, side, side + 1)
        torch.testing.assert_close(depthwise_plain(x, conv.weight, conv.bias, stride), conv(x), rtol=0, atol=1e-6)
        assert sum(same_padding(side, kernel, stride)) >= 0


def test_the_gradient_of_a_5x5_kernel_is_composed_of_four_of_3x3() -> None:
    x, gradient = (torch.randn(3, 4, 9, 6, dtype=torch.float64) for _ in range(2))
    weight = torch.zeros(4, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(functional.conv2d(x, weight, padding=2, groups=4), weight, gradient)
    torch.testing.assert_close(kernel_gradient(gradient, x, weight.detach(), 1), expected)


def test_the_gradient_of_an_image_with_stride_2_is_that_of_stride_1_with_zeros_between() -> None:
    x = torch.randn(2, 4, 9, 6, dtype=torch.float64, requires_grad=True)
    weight, gradient = torch.randn(4, 1, 3, 3, dtype=torch.float64), torch.randn(2, 4, 5, 3, dtype=torch.float64)
    (expected,) = torch.autograd.grad(depthwise_plain(x, weight, None, 2), x, gradient)
    torch.testing.assert_close(image_gradient(gradient, weight, (9, 6), 2), expected)


def test_in_bfloat16_it_equals_the_plain_form_under_autocast() -> None:
    x, weight, bias = torch.randn(2, 8, 12, 14), torch.randn(8, 1, 5, 5) / 5, torch.randn(8)
    with torch.autocast("cpu", torch.bfloat16):
        fast, plain = (gradients(form, [x, weight, bias], 2) for form in (depthwise, depthwise_plain))
    assert fast[0].dtype == torch.bfloat16
    for one, other in zip(fast, plain, strict=True):
        assert one.dtype == other.dtype
        assert float(((one - other).abs().max() / other.abs().max()).detach()) < 0.02


def lite0(channels: int = 8) -> nn.Module:
    """timm's EfficientNet-Lite0 with frozen norms that do something, and random weights."""
    from timm.layers import FrozenBatchNormAct2d, freeze_batch_norm_2d

    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=channels)
    network.train()(torch.randn(2, 3, 64, 96))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = None
            module.reset_running_stats()
    network.train()(torch.randn(4, 3, 64, 96))
    frozen = freeze_batch_norm_2d(network)
    assert any(isinstance(module, FrozenBatchNormAct2d) for module in frozen.modules())
    return frozen.eval()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_a_folded_network_gives_the_same_features_and_gradients(layout: torch.memory_format) -> None:
    plain = lite0().double().to(memory_format=layout)
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    out = []
    for network in (plain, folded):
        y = network(x)
        y.square().sum().backward()
        out.append((y, {name: p.grad for name, p in network.named_parameters()}))
    torch.testing.assert_close(out[0][0], out[1][0], rtol=1e-9, atol=1e-12)
    assert out[0][1].keys() == out[1][1].keys()
    for name, gradient in out[0][1].items():
        torch.testing.assert_close(out[1][1][name], gradient, rtol=1e-7, atol=1e-10, msg=name)


def test_in_float32_folding_changes_features_by_less_than_6e_5() -> None:
    plain = lite0()
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        one, other = plain.forward_features(x), folded.forward_features(x)
    assert float((one - other).abs().max() / one.abs().max()) < 6e-5


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_grouped_convolution_is_folded_correctly(groups: int) -> None:
    from timm.layers import FrozenBatchNormAct2d

    conv, norm = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False), FrozenBatchNormAct2d(8)
    plain = nn.Sequential(conv, norm).double()
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    x = torch.randn(2, 8, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(folded(x), plain(x))


def test_folding_keeps_the_names_of_weights_and_copies_are_independent() -> None:
    plain = lite0()
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    assert folded.state_dict().keys() == plain.state_dict().keys()
    pairs = sum(isinstance(module, FoldedConv) for module in folded.modules())
    assert pairs == sum(isinstance(module, FoldedNorm) for module in folded.modules()) == 49
    other = copy.deepcopy(folded)
    with torch.no_grad():
        for buffer in other.buffers():
            buffer.mul_(1.5)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), plain(x), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(other(x), plain(x), rtol=1e-3, atol=1e-4)
        other.load_state_dict(plain.state_dict())
        torch.testing.assert_close(other(x), plain(x), rtol=1e-3, atol=1e-4)


def conv_and_norm() -> tuple[nn.Sequential, nn.Sequential]:
    """A convolution and its frozen norm, and the same folded."""
    from timm.layers import FrozenBatchNormAct2d

    plain = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), FrozenBatchNormAct2d(8))
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    return plain, folded


def other_statistics(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() + (0.5 if "." in name else 0) for name, value in network.state_dict().items()}


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("copied", [False, True])
def test_norms_are_those_that_were_loaded_last_in_copies_too(assign: bool, copied: bool) -> None:
    plain, folded = conv_and_norm()
    x, state = torch.randn(2, 8, 6, 7), other_statistics(plain)
    with torch.no_grad():
        folded(x)
        for network in (plain, folded):
            network.load_state_dict(state, assign=assign)
        same = copy.deepcopy(folded) if copied else folded
        torch.testing.assert_close(same(x), plain(x), rtol=1e-4, atol=1e-5)


def test_norms_that_were_made_in_inference_mode_follow_their_buffers() -> None:
    with torch.inference_mode():
        plain, folded = conv_and_norm()
        x = torch.randn(2, 8, 6, 7)
        for _ in range(2):
            torch.testing.assert_close(folded(x), plain(x), rtol=1e-4, atol=1e-5)
            for network in (plain, folded):
                for buffer in network.buffers():
                    buffer.mul_(1.5)


def test_fast_gradients_are_only_used_for_training_in_bfloat16_on_a_cpu() -> None:
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3, requires_grad=True)

    def by_parts() -> bool:
        return "ByParts" in type(depthwise(x, weight, None, 2).grad_fn).__name__

    assert not by_parts()
    with torch.autocast("cpu", torch.bfloat16):
        assert by_parts()
        with torch.no_grad():
            assert not by_parts()
