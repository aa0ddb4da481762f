"""Names of DETR's tensors: those of the published code, those that transformers has used over time, and ours.

Ours are the published ones, but for the three projections of an attention, which are one matrix there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

PUBLISHED, LIBRARY = "the code of 2020 (facebookresearch/detr)", "transformers"
_NORMS = {"encoder": ("self_attn_layer_norm", "final_layer_norm"),
          "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")}  # fmt: skip
_BACKBONE = "backbone.body."
_OF_LIBRARY: tuple[tuple[str, str], ...] = (
    (r"class_labels_classifier\.", "class_embed."),
    (r"bbox_predictor\.", "bbox_embed."),
    (r"model\.query_position_embeddings\.", "query_embed."),
    (r"model\.input_projection\.", "input_proj."),
    (r"model\.decoder\.layernorm\.", "transformer.decoder.norm."),
    (r"model\.encoder\.layernorm\.", "transformer.encoder.norm."),
    # transformers' own ResNet
    (r"model\.backbone\.(?:conv_encoder\.)?model\.embedder\.embedder\.convolution\.", f"{_BACKBONE}conv1."),
    (r"model\.backbone\.(?:conv_encoder\.)?model\.embedder\.embedder\.normalization\.", f"{_BACKBONE}bn1."),
    # timm's, whose names are torchvision's
    (r"model\.backbone\.(?:conv_encoder\.)?model\.(?!encoder\.)", _BACKBONE),
)
_STAGE = re.compile(r"model\.backbone\.(?:conv_encoder\.)?model\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(.+)")
_INNER = (
    (r"layer\.(\d+)\.convolution\.", lambda m: f"conv{int(m[1]) + 1}."),
    (r"layer\.(\d+)\.normalization\.", lambda m: f"bn{int(m[1]) + 1}."),
    (r"shortcut\.convolution\.", lambda m: "downsample.0."),
    (r"shortcut\.normalization\.", lambda m: "downsample.1."),
)
_LAYER = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.(?:mlp\.)?(\w+)\.(.+)")


def source_of(names: Iterable[str]) -> str | None:
    """Whose names these are: `PUBLISHED`, `LIBRARY`, or None where they are not DETR's."""
    known = set(names)
    if {"query_embed.weight", "class_embed.weight", "input_proj.weight"} <= known and any(
        name.startswith("backbone.0.body.") for name in known
    ):
        return PUBLISHED
    if {"model.query_position_embeddings.weight", "model.input_projection.weight"} <= known and (
        "model.decoder.layernorm.weight" in known and "class_labels_classifier.weight" in known
    ):
        return LIBRARY
    return None


def from_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Ours of the published names; a name that is not DETR's stays as it is."""
    ours: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        joined = re.fullmatch(r"(.+\.)in_proj_(weight|bias)", name)
        if joined and len(tensor) % 3 == 0:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            ours |= {f"{joined[1]}{letter}_proj.{joined[2]}": part.clone() for letter, part in parts}
        elif not name.endswith("num_batches_tracked"):
            ours[re.sub(r"^backbone\.0\.", "backbone.", name)] = tensor
    return ours


def to_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_published`, bit by bit."""
    published: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        apart = re.fullmatch(r"(.+\.)([qkv])_proj\.(weight|bias)", name)
        if apart is None:
            published[re.sub(r"^backbone\.", "backbone.0.", name)] = tensor
        elif apart[2] == "q":
            three = [weights[f"{apart[1]}{letter}_proj.{apart[3]}"] for letter in "qkv"]
            published[f"{apart[1]}in_proj_{apart[3]}"] = torch.cat(three)
    return published


def from_library(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Ours of any names that transformers has used; a name that is not DETR's stays as it is."""
    given = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    return {_of_library(name): tensor for name, tensor in given.items()}


def _of_library(name: str) -> str:
    layer, stage = _LAYER.fullmatch(name), _STAGE.fullmatch(name)
    if layer is not None:
        part, index, module, rest = layer.groups()
        return f"transformer.{part}.layers.{index}.{_of_layer(part, module)}.{rest.replace('o_proj.', 'out_proj.')}"
    if stage is not None:
        rest = stage[3]
        for pattern, ours in _INNER:
            rest = re.sub(f"^{pattern}", ours, rest)
        return f"{_BACKBONE}layer{int(stage[1]) + 1}.{stage[2]}.{rest}"
    for pattern, ours_begin in _OF_LIBRARY:
        changed, count = re.subn(f"^{pattern}", ours_begin, name)
        if count:
            return changed
    return name


def _of_layer(part: str, module: str) -> str:
    if module in _NORMS[part]:
        return f"norm{_NORMS[part].index(module) + 1}"
    return {"fc1": "linear1", "fc2": "linear2", "encoder_attn": "multihead_attn"}.get(module, module)
