"""The settings that a verb cannot do without: those that are `???` in its file of configs/."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detr_mini.config.files import config_folder
from detr_mini.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check_required(config: DictConfig, primary: str, verb: str) -> None:
    """ConfigError where a setting that configs/`primary`.yaml requires has no value."""
    from omegaconf import OmegaConf

    for key in sorted(OmegaConf.missing_keys(OmegaConf.load(config_folder() / f"{primary}.yaml"))):
        if OmegaConf.is_missing(config, key) or config[key] is None:
            raise ConfigError(f"{key} is not set; add {key}=... (see 'detr-mini {verb} --help')")
