"""Detectors of `transformers` small enough for a test, and truths for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detr_mini.models.build import build_model
from detr_mini.peers.detector import HFDetector
from detr_mini.structures import PackedTargets, Target, pack_targets

_SIZES = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
          "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}  # fmt: skip
_RESNET = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "embedding_size": 8, "layer_type": "basic"}
_ONE: dict[str, Any] = {"model_type": "resnet", **_RESNET, "out_features": ["stage4"]}
_THREE = {"out_features": ["stage2", "stage3", "stage4"]}
_HGNET = {"model_type": "hgnet_v2", "stem_channels": [3, 8, 8], "hidden_sizes": [8, 16, 16, 16], **_THREE,
          "stage_in_channels": [8, 8, 16, 16], "stage_mid_channels": [8] * 4, "stage_out_channels": [8, 16, 16, 16],
          "stage_num_blocks": [1] * 4, "stage_numb_of_layers": [1] * 4}  # fmt: skip
_PYRAMID = {**_SIZES, "encoder_hidden_dim": 32, "decoder_in_channels": [32] * 3, "num_denoising": 10,
            "encoder_in_channels": [8, 16, 16],
            "backbone_config": {"model_type": "rt_detr_resnet", **_RESNET, **_THREE}}  # fmt: skip
_FINE = {**_PYRAMID, "encoder_in_channels": [16] * 3, "backbone_config": _HGNET}
_WINDOWS = {"d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 32, "decoder_self_attention_heads": 2,
            "decoder_cross_attention_heads": 2, "group_detr": 3}  # fmt: skip
_VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_LW = {"model_type": "lw_detr_vit", **_VIT, "image_size": 64, "window_block_indices": [0], "out_indices": [1, 2],
       "num_windows": 4}  # fmt: skip
_RF = {"model_type": "rf_detr_dinov2", **_VIT, "image_size": 56, "num_windows": 2, "out_features": ["stage1", "stage2"]}
_DAB = {key: value for key, value in _SIZES.items() if key != "d_model"}

SMALL: dict[str, dict[str, Any]] = {
    "conditional_detr": {**_SIZES, "backbone_config": _ONE},
    "d_fine": _FINE,
    "dab_detr": {**_DAB, "hidden_size": 32, "backbone_config": _ONE},
    "deformable_detr": {**_SIZES, "backbone_config": {**_ONE, **_THREE}},
    "deimv2": _FINE,
    "detr": {**_SIZES, "backbone_config": _ONE},
    "lw_detr": {**_WINDOWS, "backbone_config": _LW},
    "rf_detr": {**_WINDOWS, "backbone_config": _RF},
    "rt_detr": _PYRAMID,
    "rt_detr_v2": _PYRAMID,
    "table_transformer": {**_SIZES, "backbone_config": _ONE},
    "yolos": {**_VIT, "hidden_size": 32, "intermediate_size": 32, "image_size": [64, 64]},
}
"""Settings of each kind."""
MODEL = {"_target_": "detr_mini.peers.HFDetector", "_convert_": "all"}
BACKBONE = {"_target_": "detr_mini.peers.OwnBackbone"}
QUERIES = 6
CLASSES = 3


def config_of(kind: str, **settings: Any) -> dict[str, Any]:
    """The model section of a config."""
    return {**MODEL, "name": kind, "queries": QUERIES, "config": {**SMALL[kind], **settings}}


def peer(kind: str, backbone: Mapping[str, Any] | None = None, **settings: Any) -> HFDetector:
    """A small detector, the same each time; on its own backbone unless one is given."""
    torch.manual_seed(0)
    model = build_model(config_of(kind, **settings), backbone or {**BACKBONE, "name": kind}, CLASSES)
    assert isinstance(model, HFDetector)
    return model


def truths(counts: Sequence[int], seed: int = 1) -> PackedTargets:
    """So many boxes an image."""
    draw = torch.Generator().manual_seed(seed)
    targets = []
    for image_id, n in enumerate(counts):
        boxes = torch.cat([torch.rand(n, 2, generator=draw) / 2 + 0.25, torch.rand(n, 2, generator=draw) / 3 + 0.1], 1)
        labels = torch.randint(0, CLASSES, (n,), generator=draw)
        crowd = torch.zeros(n, dtype=torch.bool)
        targets.append(Target(boxes, labels, image_id, (64, 64), crowd, torch.ones(n)))
    return pack_targets(targets)


def shapes(model: HFDetector) -> list[tuple[int, int]]:
    """(height, width) of three images, multiples of the model's stride: landscape, its upper half, its left half."""
    height, width = (-(-side // (2 * model.stride)) * 2 * model.stride for side in (128, 192))
    return [(height, width), (height // 2, width), (height, width // 2)]


def padded_batch(model: HFDetector) -> tuple[Tensor, Tensor]:
    """Three images of `shapes`, and the mask of their padding."""
    sizes = shapes(model)
    draw = torch.Generator().manual_seed(2)
    images = torch.randn(3, 3, *sizes[0], generator=draw)
    mask = torch.zeros(3, *sizes[0], dtype=torch.bool)
    for row, (height, width) in enumerate(sizes):
        mask[row, height:], mask[row, :, width:] = True, True
    return images.masked_fill(mask[:, None], 0.0), mask
