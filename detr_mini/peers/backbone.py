"""Our own backbones under the detectors of `transformers`. Imports the library: import this late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoBackbone, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from detr_mini.errors import ConfigError
from detr_mini.models.protocol import Backbone

OWN_ONLY = ("lw_detr", "rf_detr", "yolos")
"""Kinds whose backbone is a vision transformer that the rest is made for."""


class HouseBackboneConfig(BackboneConfigMixin, PreTrainedConfig):
    """What the library asks of a backbone: names and widths of its feature maps, fine to coarse."""

    model_type = "detr_mini"
    channels: list[int] | tuple[int, ...] = ()

    def __post_init__(self, **kwargs: Any) -> None:
        self.stage_names = [f"stage{index}" for index in range(len(self.channels))]
        self.set_output_features_output_indices(out_features=list(self.stage_names), out_indices=None)
        super().__post_init__(**kwargs)


class HouseBackbone(BackboneMixin, PreTrainedModel):
    """A place in the library's model for a backbone of ours, put in as `backbone` when the model is built."""

    config_class = HouseBackboneConfig
    main_input_name = "pixel_values"

    def __init__(self, config: HouseBackboneConfig) -> None:
        super().__init__(config)
        self.num_features = list(config.channels)
        self.backbone: Backbone | None = None
        self.post_init()

    def forward(self, pixel_values: Float[Tensor, "b 3 h w"], **kwargs: Any) -> BackboneOutput:  # type: ignore[override]  # narrower than the library's
        """The backbone's features. Padding is not passed on to it, as the library does not to its own."""
        assert self.backbone is not None
        # Any: the library's type says one map
        maps: Any = tuple(level.tensor for level in self.backbone(pixel_values, None))
        return BackboneOutput(feature_maps=maps)


AutoBackbone.register(HouseBackboneConfig, HouseBackbone)


def fit_config(config: Any, channels: Sequence[int], strides: Sequence[int]) -> None:
    """Have the library's `config` take a backbone of these channels and strides (fine to coarse), in place.

    ConfigError for a kind with a backbone of its own, and for other strides than it works at.
    """
    if config.model_type in OWN_ONLY:
        raise ConfigError(f"{config.model_type} is built on a vision transformer of its own; say backbone=own")
    wanted = getattr(config, "feat_strides", None)
    if wanted is not None and list(wanted) != list(strides):
        raise ConfigError(f"{config.model_type} works at strides {list(wanted)}; backbone.strides is {list(strides)}")
    config.backbone_config = HouseBackboneConfig(channels=list(channels))
    if hasattr(config, "encoder_in_channels"):
        config.encoder_in_channels = list(channels)


def put_in(model: nn.Module, backbone: Backbone) -> None:
    """Put `backbone` in its place in the library's `model`."""
    (place,) = (module for module in model.modules() if isinstance(module, HouseBackbone))
    place.backbone = backbone
