"""From plain configs to a model, for a training and from a checkpoint, where shapes are compared before it is built."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from detr_mini.config import parts
from detr_mini.config.plain import plain_dict
from detr_mini.errors import ConfigError, UserError
from detr_mini.models.protocol import DetectionModel, ModelDefaults

LARGEST, LARGEST_SIDE, LARGEST_STRIDE, MOST_LEVELS = 1_000_000, 8192, 1024, 256
"""Of whole numbers in a checkpoint's config; of those that are sides of images; of a model's stride; of a list."""
SPARE = 1 << 24
"""Numbers that a model may hold beside what its checkpoint does: tables that are computed when it is built."""


def parameter_count(model: DetectionModel | nn.Module) -> int:
    """The number of parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def build_part(what: str, config: Mapping[str, Any], *, modules: Iterable[str] = (), **given: Any) -> Any:
    """`parts.build_part` for a config of the command line as well, whose settings that stand for others are read."""
    part = parts.build_part(what, _plain(config), modules=modules, **given)
    if what == "model" and not isinstance(part, ModelDefaults):  # a user's class, whose own methods come first
        part.__class__ = type(type(part).__name__, (type(part), ModelDefaults), {})
    return part


def build_model(
    model_config: Mapping[str, Any],
    backbone_config: Mapping[str, Any],
    num_classes: int,
    *,
    modules: Iterable[str] = (),
    **more: Any,
) -> DetectionModel:
    """The model of `model_config` on the backbone of `backbone_config`, for `num_classes` categories.

    Each config names what it builds by `_target_`, a name of `parts.TABLE` or a class of the user's own `modules`;
    other keys go to its constructor, and so does `more`, which is no setting (a tokeniser's `vocabulary`).
    ConfigError where a name is not in the table or a key unknown.
    """
    backbone = build_part("backbone", backbone_config, modules=modules)
    given = {"backbone": backbone, "num_classes": num_classes, **more}
    return cast(DetectionModel, build_part("model", model_config, modules=modules, **given))


def rebuild(
    model_config: Mapping[str, Any],
    backbone_config: Mapping[str, Any],
    num_classes: int,
    weights: Mapping[str, Tensor],
    *,
    modules: Iterable[str] = (),
    **more: Any,
) -> DetectionModel:
    """`build_model` of a checkpoint's config, with the checkpoint's `weights`.

    It is built without memory first (on the meta device). RuntimeError where its names and shapes are not those of
    `weights`: a config may ask for a model of any size, and only one that the file fills is built.
    """
    model_config = {**OLDER_VALUES.get(str(model_config.get("_target_")), {}), **model_config}
    _refuse_large(model_config, "model")
    _refuse_large(backbone_config, "backbone")
    if all(str(config.get("_target_")) in KNOWN for config in (model_config, backbone_config)):
        try:
            with torch.device("meta"), _at_most(3 * len(weights) + 100):
                skeleton = build_model(model_config, backbone_config, num_classes, modules=modules, **more)
        except (UserError, RuntimeError):
            raise
        except Exception as error:  # settings that no training wrote raise nearly anything
            reason = (str(error).splitlines() or [""])[0][:200]
            raise ConfigError(f"its settings build no model ({type(error).__name__}: {reason})") from error
        _refuse_misfit(skeleton, weights)
    model = build_model(model_config, backbone_config, num_classes, modules=modules, **more)
    model.load_state_dict(weights)
    return model


_MINI: Mapping[str, Any] = {"sample_channels": 32}
OLDER_VALUES: Mapping[str, Mapping[str, Any]] = {
    "detr_mini.models.MiniDETR": _MINI,
    "detr_mini.models.GroundedDETR": _MINI,
}
"""Values of settings that a checkpoint of an earlier version may leave out, by the model's name."""
KNOWN = {name for names in parts.TABLE.values() for name in names}
"""Names of our own classes, all of which can be built on the meta device. A user's may not."""


def _refuse_large(node: Any, where: str) -> None:
    if isinstance(node, Mapping):
        for key, value in node.items():
            _refuse_large(value, f"{where}.{key}")
    elif isinstance(node, list | tuple):
        if len(node) > MOST_LEVELS:
            raise ConfigError(f"{where} lists {len(node):,} values, and no model of ours takes over {MOST_LEVELS:,}")
        for value in node:
            _refuse_large(value, where)
    elif isinstance(node, int):
        most = LARGEST_SIDE if "size" in where.rpartition(".")[2] else LARGEST
        if node > most:
            raise ConfigError(f"{where} is over {most:,}, and no model of ours is as large")


def _refuse_misfit(model: DetectionModel, weights: Mapping[str, Tensor]) -> None:
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted({*own, *given}):
        if own.get(name) != given.get(name):
            shapes = [given.get(name, "missing"), own.get(name, "missing")]
            raise RuntimeError(f"{name} is {shapes[0]} in the file and {shapes[1]} in the model")
    computed = sum(buffer.numel() for buffer in model.buffers())
    if computed > SPARE + sum(tensor.numel() for tensor in weights.values()):
        raise RuntimeError(f"the config asks for tables of {computed:,} numbers, which the file does not hold")
    if not 1 <= int(model.stride) <= LARGEST_STRIDE:
        raise RuntimeError(f"the config asks for a stride of {model.stride} pixels, over {LARGEST_STRIDE:,}")


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """RuntimeError as soon as modules that are built inside, in this thread, have more than `count` parameters."""
    seen, thread = 0, threading.get_ident()

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal seen
        if threading.get_ident() == thread:
            seen += 1
            if seen > count:
                raise RuntimeError(f"the config asks for more than {count} parameters, more than the file holds")

    handle = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()


def takes(config: Mapping[str, Any], part: str) -> bool:
    """Whether what `config` names by `_target_` has a parameter `part`."""
    if config.get("_target_") is None:
        return False
    known = parts.takes(parts.find(config["_target_"], "model", ("model",)))
    return known is None or part in known


def _plain(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return plain_dict(config, resolve=True) if isinstance(config, DictConfig) else config
