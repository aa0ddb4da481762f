"""From plain configs to a model. Checkpoints of strangers carry configs: only our own parts are ever built."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, cast

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from detr_mini.errors import ConfigError, UserError, nearest

ALLOWED = ("detr_mini.models", "detr_mini.vision")


def build_model(
    model_config: Mapping[str, Any], backbone_config: Mapping[str, Any], num_classes: int, **more: Any
) -> nn.Module:
    """The model of `model_config` on the backbone of `backbone_config`, for `num_classes` categories.

    Each config names what it builds by `_target_`, which must be defined in detr_mini.models or detr_mini.vision, at
    every level; other keys go to its constructor, and so does `more`, which is no setting (a tokeniser's `vocabulary`).
    ConfigError where a target is foreign or a key unknown.
    """
    backbone = build_part("backbone", backbone_config, ALLOWED)
    parts = {"backbone": backbone, "num_classes": num_classes, **more}
    return cast(nn.Module, build_part("model", model_config, ALLOWED, **parts))


def build_part(what: str, config: Mapping[str, Any], packages: Sequence[str], **parts: Any) -> Any:
    """What `config` names by `_target_`, made of its other keys and `parts`. ConfigError as in `build_model`."""
    config = _plain(config)
    if "_target_" not in config:
        raise ConfigError(f"the {what} config has no _target_; name the class it builds")
    refuse_foreign(config, what, packages)
    known = set(inspect.signature(_find(config["_target_"], what, packages)).parameters)
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


def takes(config: Mapping[str, Any], part: str) -> bool:
    """Whether what `config` names by `_target_` has a parameter `part`."""
    target = config.get("_target_")
    return target is not None and part in inspect.signature(_find(target, "model", ALLOWED)).parameters


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(config, DictConfig):
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    return dict(config)


def refuse_foreign(node: Any, where: str, packages: Sequence[str]) -> None:
    """ConfigError for any `_target_`, at any level of `node`, that is not defined in one of `packages`."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            built = _find(str(node["_target_"]), where, packages)
            # 'detr_mini.models.mini.nn' stands in our module and is none of ours: ask where the thing was defined
            home = str(getattr(built, "__module__", ""))
            if not callable(built) or not any(
                home == package or home.startswith(f"{package}.") for package in packages
            ):
                raise ConfigError(_refusal(str(node["_target_"]), where, packages))
        for key, value in node.items():
            refuse_foreign(value, f"{where}.{key}", packages)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            refuse_foreign(value, f"{where}[{index}]", packages)


def _find(target: str, where: str, packages: Sequence[str]) -> Any:
    if not target.startswith(tuple(f"{package}." for package in packages)):
        raise ConfigError(_refusal(target, where, packages))
    module, _, name = target.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where}._target_ names '{target}', which cannot be imported ({error})") from error


def _refusal(target: str, where: str, packages: Sequence[str]) -> str:
    return f"{where}._target_ is '{target}', which is no part of {' or '.join(packages)}; only those are built"
