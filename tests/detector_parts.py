"""An untrained detector, and a checkpoint of it as training writes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from detr_mini.models.build import build_model
from detr_mini.models.protocol import ModelDefaults
from detr_mini.structures import Categories

CATEGORIES = Categories((3, 7, 20), ("bolt", "nut", "washer"))
IMAGE: dict[str, Any] = {"size": 64, "shorter_side": None, "mean": [0.5] * 3, "std": [0.25] * 3}
MODEL = {"_target_": "detr_mini.models.MiniDETR", "dim": 32, "heads": 2, "feedforward": 32, "queries": 8,
         "sample_channels": 8}  # fmt: skip
BACKBONE = {"_target_": "detr_mini.vision.ConvNet", "channels": [4, 8, 16, 32], "blocks": [0, 1, 1, 1]}


class PlainModel(ModelDefaults):
    """Makes a module a detection model, one that finds nothing."""

    stride = 1

    def postprocess(self, *_: Any) -> list[Any]:
        return []


class PlainLinear(PlainModel, nn.Linear): ...


class PlainNorm(PlainModel, nn.BatchNorm1d): ...


GROUNDED = {
    **MODEL,
    "_target_": "detr_mini.models.GroundedDETR",
    "text": {"heads": 2, "feedforward": 32, "layers": 1, "max_tokens": 40},
    "joint": {"layers": 1, "width": 8, "heads": 2, "pair_dim": 4},
}


def untrained(config: dict[str, Any] = MODEL, noise: float = 0.05, **parts: Any) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(config, BACKBONE, len(CATEGORIES), **parts)
    with torch.no_grad():  # an untrained model says nearly the same of everything: make it speak up
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def checkpoint_of(model: nn.Module, categories: Categories = CATEGORIES, **config: Any) -> dict[str, Any]:
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return {
        "state_dict": {f"model.{name}": torch.zeros_like(value) for name, value in weights.items()},
        "averaged": {"weights": weights, "updates": 1},
        "categories": categories.to_dict(),
        "image": IMAGE,
        "recipe": "test",
        "config": {"model": MODEL, "backbone": BACKBONE, **config},
    }
