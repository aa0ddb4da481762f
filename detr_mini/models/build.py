"""From plain configs to a model. Checkpoints of strangers carry configs: only our own parts are ever built."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from detr_mini.errors import ConfigError, UserError, nearest

ALLOWED = ("detr_mini.models", "detr_mini.vision")


def build_model(model_config: Mapping[str, Any], backbone_config: Mapping[str, Any], num_classes: int) -> nn.Module:
    """The model of `model_config` on the backbone of `backbone_config`, for `num_classes` categories.

    Each config names what it builds by `_target_`, which must be defined in detr_mini.models or detr_mini.vision, at
    every level; other keys go to its constructor. ConfigError where a target is foreign or a key unknown.
    """
    model, backbone = _plain(model_config), _plain(backbone_config)
    for what, config in (("model", model), ("backbone", backbone)):
        if "_target_" not in config:
            raise ConfigError(f"the {what} config has no _target_; name the class it builds")
        _check(config, what)
    return cast(nn.Module, _build("model", model, backbone=_build("backbone", backbone), num_classes=num_classes))


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(config, DictConfig):
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    return dict(config)


def _check(node: Any, where: str) -> None:
    if isinstance(node, Mapping):
        if "_target_" in node:
            _check_target(str(node["_target_"]), where)
        for key, value in node.items():
            _check(value, f"{where}.{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            _check(value, f"{where}[{index}]")


def _check_target(target: str, where: str) -> None:
    built = _find(target, where)
    # 'detr_mini.models.mini.nn' stands in our module and is none of ours: ask where the thing was defined
    home = str(getattr(built, "__module__", ""))
    if not callable(built) or not any(home == package or home.startswith(f"{package}.") for package in ALLOWED):
        raise ConfigError(_refusal(target, where))


def _find(target: str, where: str) -> Any:
    if not target.startswith(tuple(f"{package}." for package in ALLOWED)):
        raise ConfigError(_refusal(target, where))
    module, _, name = target.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where}._target_ names '{target}', which cannot be imported ({error})") from error


def _refusal(target: str, where: str) -> str:
    return f"{where}._target_ is '{target}', which is no part of {' or '.join(ALLOWED)}; only those are built"


def _build(what: str, config: dict[str, Any], **parts: Any) -> Any:
    known = set(inspect.signature(_find(config["_target_"], what)).parameters)
    for key in config:
        if not key.startswith("_") and key not in known and "kwargs" not in known:
            raise ConfigError(f"{what}.{key} is no setting of {config['_target_']}{nearest(key, sorted(known))}")
    try:
        return instantiate(config, **parts)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, TypeError | ValueError):
            raise ConfigError(f"the {what} of {config['_target_']} cannot be built: {error.__cause__}") from error
        raise
