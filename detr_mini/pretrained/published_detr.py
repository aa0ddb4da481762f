"""DETR's published weights, in files of the code of 2020 or of transformers, as a checkpoint of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detr_mini.config.run_folder import whole
from detr_mini.errors import CheckpointError, UserError, some_of
from detr_mini.models.build import build_model
from detr_mini.pretrained.coco_categories import UNNAMED, named
from detr_mini.pretrained.detr_keys import PUBLISHED, from_library, from_published, source_of, to_published
from detr_mini.pretrained.torchvision_detectors import kind_of, resnet_depth, what_to_do
from detr_mini.vision.backbone import IMAGENET_MEAN, IMAGENET_STD

IMAGE = {"size": 1333, "shorter_side": 800, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
"""As DETR was published."""
THRESHOLD = 0.5
"""Of the detections that are reported: transformers' own, for all its detectors."""
_LISTED = 5
_FIRST = "transformer.encoder.layers.0.linear1.weight"


@dataclass(frozen=True)
class Published:
    """What stands beside the tensors of a published detector, as far as its file says."""

    source: str
    """A file, a folder or a hub name."""
    revision: str | None = None
    labels: tuple[str, ...] = ()
    heads: int | None = None
    dilation: bool | None = None
    image: Mapping[str, Any] | None = None
    dropout: float | int = 0.1

    def checkpoint(
        self, weights: Mapping[str, Tensor], model: dict[str, Any], backbone: dict[str, Any], about: str,
        labels: tuple[str, ...], image: Mapping[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        """A checkpoint as a training of ours writes it; its part "published" says where it comes from."""
        return {
            "state_dict": {f"model.{name}": tensor for name, tensor in weights.items()},
            "categories": named(labels).to_dict(),
            "image": dict(image),
            "config": {"model": model, "backbone": backbone},
            "operating_point": {"threshold": THRESHOLD, "suppress_iou": None},
            "recipe": "published",
            "published": {"source": self.source, "revision": self.revision, "about": about},
        }


def detr_checkpoint(tensors: Mapping[str, Tensor], said: Published) -> dict[str, Any]:
    """The checkpoint of DETR's tensors under any of its names. CheckpointError, by name, where some do not fit."""
    plain = {name.removeprefix("detr."): tensor.float() if tensor.is_floating_point() else tensor
             for name, tensor in tensors.items()}  # fmt: skip
    whose = source_of(plain)
    if whose is None:
        raise CheckpointError(f"{said.source} does not hold DETR's weights: {_what(tensors, said.source)}")
    weights = (from_published if whose == PUBLISHED else from_library)(plain)
    masks = [name for name in weights if name.startswith(("bbox_attention.", "mask_head."))]
    weights = {name: tensor for name, tensor in weights.items() if name not in masks}
    model, backbone = _settings(weights, said)
    labels = said.labels or tuple(f"{UNNAMED}{k}" for k in range(len(weights["class_embed.weight"]) - 1))
    _check(weights, model, backbone, len(labels), said.source)
    notes = [f"{said.source}: DETR on ResNet-{backbone['depth']}{', DC5' if backbone['dilation'] else ''}, "
             f"{len(labels)} classes, with the names of {whose}"]  # fmt: skip
    notes += [f"its {len(masks)} tensors for masks are left out"] if masks else []
    if said.dilation is None:
        notes.append("a file does not say whether the last stage is dilated (DC5): only one with dc5 in its name is")
    return said.checkpoint(weights, model, backbone, "; ".join(notes), labels, said.image or IMAGE)


def on_known_resnet(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a DETR of transformers is on a ResNet that we have."""
    return resnet_depth(from_library(tensors)) is not None


def _settings(weights: Mapping[str, Tensor], said: Published) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configs that build a model of these weights, from their names and shapes."""

    depth = resnet_depth(weights)
    needed = [name for name in ("input_proj.weight", _FIRST) if name not in weights]
    if depth is None or needed:
        lacks = f"'{needed[0]}'" if needed else "backbone, a ResNet of 18, 34, 50 or 101 layers"
        raise CheckpointError(f"{said.source} does not hold a whole DETR; it lacks its {lacks}; get the file again")
    dim, feedforward = len(weights["input_proj.weight"]), len(weights[_FIRST])
    dilation = "dc5" in said.source.rpartition("/")[2].lower() if said.dilation is None else said.dilation
    model = {
        "_target_": "detr_mini.models.DETR", "dim": dim, "heads": said.heads or max(1, dim // 32),
        "feedforward": feedforward, "encoder_layers": _count(weights, "transformer.encoder.layers."),
        "decoder_layers": _count(weights, "transformer.decoder.layers."), "queries": len(weights["query_embed.weight"]),
        "dropout": float(said.dropout), "pre_norm": "transformer.encoder.norm.weight" in weights,
        "padding": "published",
    }  # fmt: skip
    backbone = {
        "_target_": "detr_mini.vision.resnet", "depth": depth, "weights": "none",
        "strides": [16 if dilation else 32], "frozen_norm": True, "frozen_stride": 4, "dilation": dilation,
    }  # fmt: skip
    return model, backbone


def _count(weights: Mapping[str, Tensor], begin: str) -> int:
    return len({name[len(begin) :].partition(".")[0] for name in weights if name.startswith(begin)})


def write_published(checkpoint: Mapping[str, Any], weights: Mapping[str, Tensor], output: Path) -> None:
    """Write the weights of a DETR of ours as the code of 2020 reads them: {"model": ...} with its names.

    CheckpointError for another model or backbone.
    """
    model, backbone = checkpoint["config"]["model"], checkpoint["config"]["backbone"]
    kinds = tuple(str(part.get("_target_")) for part in (model, backbone))
    if kinds != ("detr_mini.models.DETR", "detr_mini.vision.resnet"):
        raise CheckpointError(f"format=detr holds a DETR on a ResNet, and this checkpoint is a {kinds[0]} on "
                              f"{kinds[1]}; use format=safetensors")  # fmt: skip
    if output.exists():  # such a file does not say who wrote it
        raise UserError(f"{output} is there already; choose another output, or remove it")
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole(output) as temporary:
        torch.save({"model": to_published(weights)}, temporary)


def _check(
    weights: Mapping[str, Tensor], model: Mapping[str, Any], backbone: Mapping[str, Any], classes: int, source: str
) -> None:
    """CheckpointError that names what is missing, unexpected or of another shape."""
    with torch.device("meta"):
        own = {n: tuple(t.shape) for n, t in build_model(model, backbone, classes).state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    missing, unexpected = sorted({*own} - {*given}), sorted({*given} - {*own})
    reshaped = [
        f"{name} {given[name]} (not {own[name]})" for name in sorted({*own} & {*given}) if own[name] != given[name]
    ]
    faults = [f"{len(names)} {word}: {some_of(names, _LISTED)}"
              for word, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
              if names]  # fmt: skip
    if faults:
        raise CheckpointError(f"{source} does not hold a whole DETR; tensors {'; '.join(faults)}; get the file again")


def _what(tensors: Mapping[str, Tensor], source: str) -> str:
    """What the names of tensors look like, for an error."""
    names = sorted(tensors)
    kind = kind_of(names)
    if kind is not None:
        return what_to_do(kind, tensors, source)
    marks = {
        "Deformable DETR": "transformer.level_embed",
        "Conditional DETR": "transformer.decoder.ref_point_head.layers.0.weight",
        "a ResNet classifier": "fc.weight",
    }  # fmt: skip
    looks = [what for what, name in marks.items() if name in tensors]
    found = f"they are {looks[0]}'s" if looks else f"it holds {some_of(names, _LISTED)}" if names else "it is empty"
    return f"{found}; give a file of DETR, a folder of transformers, or a checkpoint of detr-mini"
