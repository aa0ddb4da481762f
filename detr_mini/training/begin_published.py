"""A training that begins with a published detector: what its weights say becomes the settings.

Model, backbone, criterion, image size, normalisation and learning rates follow from the weights. A setting that the
command line names (`explicit`, see `config.compose`) stays as it was said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from detr_mini.config.files import config_folder
from detr_mini.config.plain import plain_dict
from detr_mini.data.auto_settings import AUTO
from detr_mini.errors import ConfigError
from detr_mini.images.model_input import IMAGE_KEYS
from detr_mini.pretrained.torchvision_detectors import Body

RATES: Mapping[str, float] = {"deformable_detr": 2e-4, "d_fine": 2e-4, "yolos": 2.5e-5}
"""Learning rates with which kinds of detectors were published; of the others 1e-4. The backbone has a tenth, as in
`optim=adamw` (YOLOS is a backbone altogether)."""
USUAL_RATE = 1e-4
BATCH_PIXELS, LARGEST_BATCH = 8 * 640 * 640, 8
"""Of the images of a batch together, as the published trainings had them on one device; and how many at most."""
RESNET = "detr_mini.vision.resnet"
_SECTIONS = ("model", "backbone", "criterion", "optim", "recipe", "data", "trainer")


def set_by_weights(settings: dict[str, Any], start: Mapping[str, Any]) -> list[str]:
    """Change a training's `settings` in place to what the published weights in `start` say; sentences about it.

    None where the command line chooses the model: it is then built as said, and the weights must fit.
    """
    source, explicit = start["published"]["source"], tuple(settings.get("explicit") or ())
    if "model" in explicit:
        return [f"init={source}: model=... is said, so no setting is taken from the weights"]
    kind = _kind(start)
    stated = {"data": _data(settings, start, explicit), "optim": _optim(kind), "trainer": {"coarse_scale": 1.0}}
    stated |= _model(start)
    for part in ("backbone", "optim"):
        if part in explicit:
            stated.pop(part)
    kept = []
    for section in (name for name in _SECTIONS if name in stated):
        before, new = settings.get(section), stated[section]
        kept += _keep_explicit(section, new, before, explicit)
        settings[section] = {**(before or {}), **new} if section in ("data", "trainer") else new
    return _said(source, settings, start, kept)


def set_backbone(settings: dict[str, Any], body: Body) -> None:
    """Change the section `backbone` in place so that it builds the ResNet of a detector of torchvision.

    ConfigError where the command line chooses another one.
    """
    section = settings["backbone"]
    same = section.get("_target_") == RESNET and section.get("depth") == body.depth
    if not same and "backbone" in (settings.get("explicit") or ()):
        raise ConfigError(f"init={body.source} holds a ResNet-{body.depth}, and backbone=... chooses another network; "
                          f"choose ResNet-{body.depth}, or leave it out")  # fmt: skip
    settings["backbone"] = {**(section if same else _file("backbone", f"resnet{body.depth}")), "weights": "none"}


def _kind(start: Mapping[str, Any]) -> str:
    return str(start["config"]["model"].get("name") or "detr")


def _model(start: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that build the model of the weights, and the loss that it was published with."""
    model, backbone = (dict(start["config"][part]) for part in ("model", "backbone"))
    ours = "name" not in model
    file = _file("model", "detr" if ours else "hf")
    if not ours:
        model["config"] = {**model["config"]}
        if "decoder_layers" in model["config"]:
            model["config"]["auxiliary_loss"] = True  # every decoder layer is trained, as it was
        model["_convert_"] = "all"
    return {"model": model, "backbone": backbone, "criterion": file["criterion"], "recipe": file["recipe"]}


def _data(settings: Mapping[str, Any], start: Mapping[str, Any], explicit: Sequence[str]) -> dict[str, Any]:
    """How the weights want their images, and how many of them a batch may have to fit into memory.

    A size that the command line names replaces the weights' rectangle by a square of it.
    """
    image = {key: start["image"][key] for key in IMAGE_KEYS if key in start["image"]}
    size = settings["data"].get("size")
    if "data.size" in explicit and size != AUTO:
        image |= {"size": size, "shorter_side": None}
        image |= {"exact": [size, size]} if image.get("exact") else {}
    if settings["data"].get("batch_size") == AUTO:
        room = BATCH_PIXELS // (image["size"] * (image.get("shorter_side") or image["size"]))
        image["batch_size"] = 1 << (max(1, min(LARGEST_BATCH, room)).bit_length() - 1)
    return image


def _optim(kind: str) -> dict[str, Any]:
    optim = _file("optim", "adamw")
    optim["optimizer"]["lr"] = RATES.get(kind, USUAL_RATE)
    if kind == "yolos":
        optim["optimizer"]["backbone_scale"] = 1.0
    return {**optim, "warmup_steps": AUTO, "average": AUTO}


def _file(group: str, name: str) -> dict[str, Any]:
    """A file of configs/, without its defaults list."""
    found = plain_dict(cast(DictConfig, OmegaConf.load(config_folder() / group / f"{name}.yaml")))
    return {key: value for key, value in found.items() if key != "defaults"}


def _keep_explicit(section: str, new: Any, before: Any, explicit: Sequence[str]) -> list[str]:
    """Put the values that the command line names back into what weights say of a section, in place; their keys."""
    kept = []
    for key in explicit:
        if key == "data.size" and section == "data" and before.get("size") == AUTO:
            continue
        first, *inner = key.split(".")
        if first != section or not inner or not isinstance(new, dict):
            continue
        value, place = before, new
        for each in inner[:-1]:
            value, place = (part.get(each, {}) if isinstance(part, Mapping) else {} for part in (value, place))
        if isinstance(value, Mapping) and inner[-1] in value and inner[-1] in place:
            place[inner[-1]] = value[inner[-1]]
            kept.append(key)
    return kept


def _said(source: str, settings: Mapping[str, Any], start: Mapping[str, Any], kept: Sequence[str]) -> list[str]:
    data, optim = settings["data"], settings["optim"]["optimizer"]
    size = f"data.size={data['size']}"
    if data.get("exact"):
        size += f" (rectangles of {data['exact'][0]} x {data['exact'][1]})"
    elif data.get("shorter_side"):
        size += f" data.shorter_side={data['shorter_side']}"
    rate = f"optim.optimizer.lr={optim.get('lr')}"
    image = start["image"]
    normal = ", ".join(f"{value:.3f}" for value in image["mean"])
    config = start["config"]["model"].get("config") or start["config"]["model"]
    queries = config.get("num_queries") or config.get("num_detection_tokens") or config.get("queries")
    revision = start["published"].get("revision")
    sentences = [
        start["published"]["about"] + (f" (revision {revision})" if revision else ""),
        f"set as the weights of {source} say: {size}, {queries} queries, normalisation (mean {normal}), "
        f"data.batch_size={data.get('batch_size')}, {rate} (times {optim.get('backbone_scale', 1)} in the backbone), "
        f"images of that size from the start",
    ]
    if kept:
        sentences.append(f"as the command line says, and not the weights: {', '.join(sorted(kept))}")
    return sentences
