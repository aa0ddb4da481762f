"""Settings as words of the command line: what `key=value` says, from plain Python values."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from detr_mini.config.files import groups
from detr_mini.config.path_settings import quoted
from detr_mini.errors import ConfigError


def in_hydra(value: Any) -> str:
    """A plain value in Hydra's grammar for overrides: None, true or false, a number, text, a path, a list, a mapping.

    ConfigError for any other.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str | os.PathLike):
        return quoted(os.fspath(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{in_hydra(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(in_hydra, value)) + "]"
    raise ConfigError(f"{value!r} is no value of a setting; give text, a number, true or false, a list or a mapping")


def words_of(settings: Mapping[str, Any]) -> list[str]:
    """`{"seed": 1, "data": {"root": "photos"}}` as `seed=1`, `data.root='photos'`; files of configs/ come first."""
    begun = settings.get("resume") not in (None, "auto")  # a run's own config has all its keys
    words = list(_words(settings, "", "" if begun else "++"))
    chosen = [word for word in words if word.partition("=")[0] in groups()]
    return [*chosen, *(word for word in words if word not in chosen)]


def _words(settings: Mapping[str, Any], prefix: str, adding: str) -> Iterator[str]:
    """`adding`: what comes before keys inside a section, so that settings that are null in configs/ take mappings."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and all(re.fullmatch(r"[A-Za-z_][\w.]*", str(each)) for each in value):
            yield from _words(value, f"{name}.", adding)
        elif name in groups() and isinstance(value, str) and re.fullmatch(r"[\w-]+", value):
            yield f"{name}={value}"
        else:
            yield f"{adding if name.count('.') > 1 else ''}{name}={in_hydra(value)}"
