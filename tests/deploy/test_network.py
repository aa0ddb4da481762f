"""A network without padding finds what the model finds in padded batches, whatever the parts that it is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deploy_parts import assert_needs_no_padding
from detector_parts import BACKBONE, MODEL, PlainLinear
from detr_mini.attention.kinds import KINDS
from detr_mini.deploy.network import Network
from detr_mini.errors import UserError
from detr_mini.models.build import build_model

LITE0 = {"_target_": "detr_mini.vision.efficientnet_lite0", "weights": "none"}
BACKBONES: dict[str, Any] = {
    "convnet": BACKBONE,
    "efficientnet_lite0": LITE0,
    "trained norms": {**LITE0, "frozen_norm": False},
    "resnet18": {"_target_": "detr_mini.vision.resnet", "depth": 18, "weights": "none"},
    "mobilenet_v3": {"_target_": "detr_mini.vision.mobilenet_v3", "size": "small", "weights": "none"},
}
DETR = {"_target_": "detr_mini.models.DETR", "dim": 32, "heads": 2, "feedforward": 32, "encoder_layers": 1,
        "decoder_layers": 1, "queries": 8}  # fmt: skip
MODELS: dict[str, Any] = {
    "mini": MODEL,
    "deformable, distinct": {**MODEL, "decoder": {"cross_attention": "deformable"}, "distinct_iou": 0.5},
    **{kind: {**MODEL, "encoder": {"attention": kind, "window": 1}} for kind in KINDS},
    "detr": DETR,
}
SIZES = ((64, 64), (45, 61), (33, 64), (20, 131), (5, 70))


def model_of(model: dict[str, Any], backbone: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    built: Any = build_model(model, backbone, 3)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return built.eval()


@pytest.mark.parametrize(
    ("model", "backbone"), [("mini", name) for name in BACKBONES] + [(name, "convnet") for name in [*MODELS][1:]]
)
def test_images_of_any_size_need_no_padding(model: str, backbone: str) -> None:
    if "lite0" in backbone or backbone == "trained norms":
        pytest.importorskip("timm", reason="the package timm of the extra 'timm' is not installed")
    whole = model_of(MODELS[model], BACKBONES[backbone])
    assert_needs_no_padding(whole, Network(whole, 5), SIZES)


def test_a_model_of_another_class_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="a detector of PlainLinear is not exported to ONNX, OpenVINO or torch"):
        Network(PlainLinear(2, 2), 5)
