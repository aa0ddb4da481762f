"""The config of a run folder: read without trust, and what `resume=RUN` makes of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_mini.config import parts
from detr_mini.config.changed_settings import refuse_changes
from detr_mini.config.check import check_config, dotted_keys
from detr_mini.config.files import groups
from detr_mini.config.number_settings import check_numbers
from detr_mini.config.path_settings import is_text, plain
from detr_mini.config.plain import plain_dict
from detr_mini.config.suggestions import suggest
from detr_mini.config.yaml_events import endless_yaml
from detr_mini.errors import CheckpointError, ConfigError, first_line

if TYPE_CHECKING:
    from omegaconf import DictConfig

LARGEST_FILE = 256 * 1024
"""Bytes of a run folder's config.yaml, which is a few pages."""


def resumed_config(run: str, overrides: Sequence[str]) -> DictConfig:
    """The config of the run folder `run` with `overrides` on top.

    ConfigError for a key that it lacks, and for a setting that can no longer change (`refuse_changes`).
    CheckpointError where there is no such run.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    folder = Path(run).expanduser()
    begun, start = (folder / "last.ckpt").is_file(), folder / ".start.yaml"
    file = start if start.is_file() and not begun else folder / "config.yaml"
    if not file.is_file():  # nor a pipe, which would never end
        raise CheckpointError(f"there is no {file}; resume=RUN takes the folder of a run, for example "
                              "outputs/quickstart")  # fmt: skip
    try:
        config = read_config(file)
        config.modules = []  # only this command may name modules: the file may be a stranger's
        before = config.copy()
        OmegaConf.set_struct(config, True)
        config.resume = run
        for word in overrides:
            key, _, value = word.partition("=")
            if not re.fullmatch(r"[\w.]+", key) or key not in dotted_keys(config):
                raise ConfigError(f"{key} does not exist in {file}{suggest(key, dotted_keys(config))}")
            if key in groups() and key in config and OmegaConf.is_dict(config[key]):
                raise ConfigError(f"{key}={value} chooses a file of configs/; resume= takes single settings of a run, "
                                  f"{key}.NAME=VALUE")  # fmt: skip
            given = plain(word) if is_text(key) and value not in ("null", "[]") else parsed_value(value)
            OmegaConf.update(config, key, OmegaConf.create([given])[0])
    except OmegaConfBaseException as error:
        raise ConfigError(f"{file} and the overrides do not fit together: {first_line(error)}") from error
    known, settings = plain_dict(before), plain_dict(config)
    if begun:
        refuse_changes(folder, known, settings)
    parts.name_modules(config.modules or ())
    check_config(settings, known)
    check_numbers(settings, known)
    return config


def read_config(file: Path) -> DictConfig:
    """The config of a run folder, plain values only (`parts.plain`): nothing in it is looked up, called or imported.

    ConfigError where the file is not a config, or is larger or more deeply nested than a config can be.
    """
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise ConfigError(f"{file} has {size:,} bytes, and a config at most {LARGEST_FILE:,}; give another run")
    try:
        text = file.read_text(encoding="utf-8-sig")
        if why := endless_yaml(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader), parts.DEEPEST):
            raise ConfigError(f"{file} {why}; write every value out")
        config = OmegaConf.create(text)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as a config ({first_line(error)}); give another run") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{file} is not a config, because it holds no settings by name; give the folder of a run")
    return OmegaConf.create(parts.plain(OmegaConf.to_container(config), str(file)))


def parsed_value(text: str) -> Any:
    """The value of an override as YAML reads it."""
    from omegaconf import OmegaConf

    return plain_dict(OmegaConf.from_dotlist([f"x={text}"]))["x"]
