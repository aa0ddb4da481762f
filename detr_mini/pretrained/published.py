"""Published detectors, in the files and folders in which they are shared, as checkpoints of ours.

DETR runs in our own code (`published_detr`), any other detector of transformers in that library's, behind
`peers.HFDetector`. Tensors only: no code of a file or folder is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from detr_mini.errors import CheckpointError
from detr_mini.pretrained.detr_keys import source_of
from detr_mini.pretrained.hub import CONFIG, IMAGES, WEIGHTS
from detr_mini.pretrained.packaged import check_header
from detr_mini.pretrained.published_detr import IMAGE, Published, detr_checkpoint, on_known_resnet
from detr_mini.tensor_files import load_weights
from detr_mini.vision.backbone import IMAGENET_MEAN, IMAGENET_STD

LARGEST_TEXT = 1 << 22
"""Bytes of a config file."""
BILINEAR = 2
"""As pillow numbers its filters."""
MULTIPLES = {"yolos": 16}
"""Kinds whose images' sides are cut to a multiple."""


def is_folder(path: Path) -> bool:
    """Whether a folder is one that transformers' `save_pretrained` writes."""
    return (path / CONFIG).is_file() and any((path / name).is_file() for name in WEIGHTS)


def read_folder(folder: Path, source: str | None = None, revision: str | None = None) -> dict[str, Any]:
    """The detector in a folder of transformers, or of the hub (`source`: its name there). CheckpointError for none."""
    source = source or str(folder)
    config = _read_json(folder / CONFIG)
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"the folder {folder} holds neither {' nor '.join(WEIGHTS)}; give a whole one")
    images = _read_json(folder / IMAGES) if (folder / IMAGES).is_file() else {}
    if _is_plain_detr(config):
        tensors = tensors_of(file)
        said = Published(
            source, revision, _labels(config), _whole(config.get("encoder_attention_heads")), _is_dilated(config),
            image_of(images, "detr", IMAGE), config.get("dropout", 0.1),
        )  # fmt: skip
        if source_of(tensors) is None or on_known_resnet(tensors):  # the first is an error, which names what it found
            return detr_checkpoint(tensors, said)
    return _of_library(folder, file, images, source, revision)


def read_file(file: Path, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """The DETR in a file of tensors. CheckpointError for any other, with what it holds.

    `tensors`: those of the file, where it was read already.
    """
    if file.name in WEIGHTS and (file.parent / CONFIG).is_file():
        return read_folder(file.parent)
    return detr_checkpoint(tensors_of(file) if tensors is None else tensors, Published(str(file)))


def tensors_of(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of one that `torch.save` wrote (as such or under "model")."""
    if file.suffix == ".safetensors":
        try:
            check_header(file)
            with safe_open(str(file), "pt") as opened:
                return {name: opened.get_tensor(name) for name in sorted(opened.keys())}
        except (SafetensorError, ValueError, OSError) as error:
            raise CheckpointError(f"{file} is no file of tensors: it is damaged or cut off; get it again") from error
    tensors = tensors_in(load_weights(file))
    if tensors is None:
        raise CheckpointError(f"{file} is no file of a detector's tensors; give another one")
    return tensors


def tensors_in(content: Any) -> dict[str, Tensor] | None:
    """Names and tensors in what a file holds: as such, or under "model" or "state_dict"; None where it holds others."""
    if not isinstance(content, Mapping):
        return None
    for inner in (content.get("model"), content.get("state_dict"), content):
        if (
            isinstance(inner, Mapping)
            and inner
            and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in inner.items())
        ):
            return dict(inner)
    return None


def image_of(images: Mapping[str, Any], kind: str, usual: Mapping[str, Any]) -> dict[str, Any]:
    """How a folder's preprocessor_config.json wants images, as a checkpoint says it; `usual` where it does not.

    CheckpointError for what is not done here: cropping, other filters than bilinear.
    """
    said = dict(usual)
    size = images.get("size")
    if isinstance(size, int):  # of old files: the shorter side
        said |= {"size": _whole(images.get("max_size")) or 1333, "shorter_side": size}
    elif isinstance(size, Mapping) and size.get("shortest_edge"):
        said |= {"size": size.get("longest_edge") or 1333, "shorter_side": size["shortest_edge"]}
    elif isinstance(size, Mapping) and size.get("height"):
        said |= {"size": max(size["height"], size["width"]), "shorter_side": None,
                 "exact": [size["height"], size["width"]]}  # fmt: skip
    if (
        not images.get("do_resize", True)
        or images.get("do_center_crop")
        or images.get("resample", BILINEAR) != BILINEAR
    ):
        raise CheckpointError(f"{IMAGES} of this {kind} asks for a crop, another filter than bilinear, or no resizing, "
                              "which is not done here; use it in its own library")  # fmt: skip
    if "do_normalize" in images or "image_mean" in images:
        plain = not images.get("do_normalize", True)
        said["mean"] = [0.0] * 3 if plain else list(images.get("image_mean", IMAGENET_MEAN))
        said["std"] = [1.0] * 3 if plain else list(images.get("image_std", IMAGENET_STD))
    if kind in MULTIPLES and said.get("exact") is None:
        said["multiple"] = MULTIPLES[kind]
    if kind == "rf_detr":
        said["antialias"] = False
    return said


def _of_library(
    folder: Path, file: Path, images: Mapping[str, Any], source: str, revision: str | None
) -> dict[str, Any]:
    """A detector that only transformers has."""
    from detr_mini.peers.kinds import find
    from detr_mini.peers.published_weights import published_weights

    kind = find(str(folder))
    mean, std = kind.normalisation
    usual = {"mean": list(mean), "std": list(std), **_usual_size(kind.name)}
    tensors = None if file.suffix == ".safetensors" else tensors_of(file)
    weights, settings = published_weights(kind, tensors)
    model = {"_target_": "detr_mini.peers.HFDetector", "name": kind.name, "queries": None, "config": settings,
             "as_published": True}  # fmt: skip
    backbone = {"_target_": "detr_mini.peers.OwnBackbone", "name": kind.name}
    about = f"{source}: {kind.name} of transformers, {len(kind.labels)} classes"
    named = {f"library.{name}": tensor for name, tensor in weights.items()}
    image = image_of(images, kind.name, usual)
    return Published(source, revision).checkpoint(named, model, backbone, about, kind.labels, image)


def _usual_size(kind: str) -> dict[str, Any]:
    """Of a kind whose folder has no preprocessor_config.json: as its library's image processor does."""
    if kind in ("rt_detr", "rt_detr_v2", "d_fine", "deimv2", "lw_detr", "rf_detr"):
        return {"size": 640, "shorter_side": None, "exact": [640, 640]}
    return {"size": 1333, "shorter_side": 800}


def _is_plain_detr(config: Mapping[str, Any]) -> bool:
    """Whether it is a DETR that our code runs: on a ResNet, with sine positions and ReLU."""
    backbone = config.get("backbone_config") or {}
    name = str(config.get("backbone") or backbone.get("backbone") or backbone.get("model_type") or "resnet50")
    usual = (config.get("position_embedding_type", "sine"), config.get("activation_function", "relu"))
    same = config.get("encoder_attention_heads", 8) == config.get("decoder_attention_heads", 8)
    wide = config.get("encoder_ffn_dim", 2048) == config.get("decoder_ffn_dim", 2048)
    return (
        config.get("model_type") == "detr" and name.startswith("resnet") and usual == ("sine", "relu") and same and wide
    )


def _is_dilated(config: Mapping[str, Any]) -> bool:
    backbone = config.get("backbone_config") or {}
    return bool(config.get("dilation")) or backbone.get("output_stride") == 16


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label")
    if not isinstance(names, Mapping):
        return ()
    return tuple(str(name) for _, name in sorted(names.items(), key=lambda pair: int(pair[0])))


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > LARGEST_TEXT:
            raise ValueError("it is too large")
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); give a folder of 'save_pretrained'") from error
    return content
