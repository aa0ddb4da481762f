"""Published detectors small enough for a test: folders as their libraries write them, and their own pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from detr_mini.peers.kinds import build_library, find, make_config
from peer_parts import SMALL

NAMES = {0: "N/A", 1: "cat", 2: "dog", 3: "person", 4: "N/A", 5: "bike"}
OWN_RESNET = {"model_type": "resnet", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512],
              "layer_type": "basic", "embedding_size": 64, "out_features": ["stage4"]}  # fmt: skip
SIZES: dict[str, Any] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_queries": 7}  # fmt: skip


def library_peer(kind: str, names: dict[int, str] = NAMES) -> Any:
    """A small detector of the library with random weights that finds different things."""
    torch.manual_seed(0)
    config = make_config(find(kind), SMALL[kind], 20, len(names))
    config.auxiliary_loss, config.id2label = False, names
    model: Any = build_library(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "class" in name or "bbox" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def library_detr(own_resnet: bool = False, names: dict[int, str] = NAMES) -> Any:
    """A small DETR of transformers, on timm's ResNet-18 or on the library's own."""
    torch.manual_seed(0)
    network = {"backbone_config": OWN_RESNET} if own_resnet else {"backbone": "resnet18", "use_timm_backbone": True}
    config = transformers.DetrConfig(**SIZES, **network, id2label=names)
    model = transformers.DetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "running_mean" in name or name.endswith("bias"):
                value.normal_(std=0.1)
            elif name.startswith(("class_labels", "bbox")):
                value.normal_(std=0.3)
    return model


def publish(model: Any, folder: Path, processor: str = "DetrImageProcessor", **size: int) -> Any:
    """The folder as its users share it, and the library's own pipeline on it."""
    model.save_pretrained(folder)
    size = size or {"shortest_edge": 100, "longest_edge": 140}
    getattr(transformers, processor)(size=size).save_pretrained(folder)
    return pipeline(folder)


def pipeline(folder: Path) -> Callable[[Image.Image], dict[str, Tensor]]:
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModelForObjectDetection.from_pretrained(folder).eval()

    def detect(image: Image.Image) -> dict[str, Tensor]:
        with torch.inference_mode():
            output = model(**processor(images=image, return_tensors="pt"))
        size = [(image.height, image.width)]
        found: dict[str, Tensor] = processor.post_process_object_detection(output, threshold=0.0, target_sizes=size)[0]
        order = found["scores"].argsort(descending=True)
        return {key: value[order] for key, value in found.items()}

    return detect
