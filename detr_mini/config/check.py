"""Checks of a composed config: every key exists, and every value has the type that its setting takes.

`number_settings` checks the range of numbers, `parts` what a config may build.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detr_mini.config import parts
from detr_mini.errors import ConfigError, nearest

WORDS = {
    "data.size": ("auto",), "data.batch_size": ("auto",), "data.strong_until": ("auto",),
    "optim.warmup_steps": ("auto",), "optim.average": ("auto",), "model.queries": ("auto",), "suppress_iou": ("auto",),
    "data.tiles": ("auto",), "data.workers": ("auto",),
    "operating_point.threshold": ("auto",), "operating_point.suppress_iou": ("auto",),
    "data.train": ("auto",), "data.val": ("auto", "train"), "data.test": ("auto",),
}  # fmt: skip
"""Words that may replace a number or a section; the value is then chosen from the data."""
NUMBERS = frozenset(WORDS) - {"data.train", "data.val", "data.test"}
SWITCHES = ("trainer.tf32", "trainer.channels_last", "data.pin_memory", "data.uint8")
"""true, false, or auto: by the device that trains."""
WHEN_SET: Mapping[str, Any] = {"threshold": 0.5, "pseudo_threshold": 0.5, "size": 320, "shorter_side": 320, "boxes": {}}
"""An example of the expected type, for settings that default to null."""
TYPES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"), ((int, float), "a number"), (str, "a word"),
)  # fmt: skip


def check_config(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """ConfigError for a key that `known` (the same config without overrides) lacks, and for a value of another type.

    Below a `_target_` the keys are the arguments of what it builds. So '+new=1' and a typing error in an experiment
    file are found, too.
    """
    _check(given, known, "")


def _check(given: Any, known: Any, path: str) -> None:
    known = WHEN_SET.get(path) if known is None else known
    if isinstance(given, list | Mapping) and isinstance(known, int | float):
        kind = "true or false" if isinstance(known, bool) else "a number"
        raise ConfigError(f"{path} is {given!r}; it must be {kind}")
    if isinstance(given, list):
        own = known if isinstance(known, list) else []
        for index, item in enumerate(given):
            if item not in own:
                _check(item, None, f"{path}[{index}]")
    elif isinstance(given, Mapping):
        _check_section(given, known, path)
    else:
        _check_type(given, known, path)


def _check_section(given: Mapping[str, Any], known: Any, path: str) -> None:
    same = isinstance(known, Mapping) and given.get("_target_") == known.get("_target_")
    named = not same or not all(key in known for key in given)
    # a class is imported only where something is none of our own configs': that takes seconds and half a gigabyte
    keys = parts.takes(parts.find(str(given["_target_"]), path)) if named and "_target_" in given else None
    if keys is None and same and known:
        keys = set(known)
    for key, value in given.items():
        inner = f"{path}.{key}" if path else str(key)
        unset = isinstance(known, Mapping) and key in known and _is_empty(value)  # evaluate's data.captions: null
        if keys is not None and key not in keys and not str(key).startswith("_") and not unset:
            raise ConfigError(f"{inner} does not exist{nearest(str(key), sorted(map(str, keys)))}")
        _check(value, known.get(key) if same else None, inner)


def _is_empty(value: Any) -> bool:
    """Whether a value is null, or a section of nulls."""
    return all(map(_is_empty, value.values())) if isinstance(value, Mapping) else value is None


def _check_type(given: Any, known: Any, path: str) -> None:
    if given is None or known is None or known == "???" or str(given).startswith("${"):
        return  # no value to compare, or a reference to another setting
    if given in WORDS.get(path, ()):
        return
    if path in NUMBERS and isinstance(given, str):
        raise ConfigError(f"{path} is {given!r}; it must be a number or auto")
    if path in SWITCHES:
        if given not in (True, False, "auto") or type(given) in (int, float):
            raise ConfigError(f"{path} is {given!r}; it must be true, false or auto")
        return
    if isinstance(known, list | Mapping):
        raise ConfigError(f"{path} is {given!r}; it must be a {'list' if isinstance(known, list) else 'section'}")
    for kind, name in TYPES:
        if isinstance(known, kind):
            fits = isinstance(given, kind) and (kind is bool or not isinstance(given, bool))
            if not fits and not (kind is str and isinstance(given, int | float)):
                raise ConfigError(f"{path} is {given!r}; it must be {name}")
            return


def dotted_keys(node: Any, prefix: str = "") -> list[str]:
    """The dotted key of every setting and section in a config."""
    found = []
    for key in node:
        found.append(f"{prefix}{key}")
        child = node._get_node(key)
        if hasattr(child, "keys") and not child._is_none():
            found += dotted_keys(child, f"{prefix}{key}.")
    return found
