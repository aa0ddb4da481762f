"""Differences between the settings of two runs, and which settings `resume=` may change (docs/run-folder.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from detr_mini.errors import ConfigError

CHANGEABLE = (
    "resume", "modules", "logger", "optim", "criterion", "operating_point", "explicit",
    *(f"trainer.{name}" for name in (
        "max_epochs", "max_steps", "max_minutes", "validate_every_epochs", "validations", "save_every_minutes",
        "log_every_steps", "progress", "threads", "compile", "channels_last", "accelerator", "precision",
        "tf32", "timeout_minutes",
        "coarse_scale", "coarse_until", "coarse_grow",
    )),
    *(f"data.{name}" for name in (
        "root", "test", "captions.test", "workers", "cache_megabytes", "annotation_cache", "pin_memory", "uint8",
        "eval_batch_size",
        "on_bad_image", "shard_cache", "augment", "augment_strong", "strong_until", "make.processes",
    )),
)  # fmt: skip
"""Settings, or sections, that `resume=` may change: training applies them from the next step on. All others have
already shaped the run: its weights, the order of the images, the best checkpoint."""
HARMLESS = (
    "resume", "modules", "logger", "explicit",
    "trainer.progress", "trainer.log_every_steps", "trainer.save_every_minutes", "trainer.threads",
    "trainer.timeout_minutes",
    "data.root", "data.test", "data.captions.test", "data.workers", "data.cache_megabytes", "data.annotation_cache",
    "data.pin_memory", "data.uint8", "data.eval_batch_size", "data.on_bad_image", "data.shard_cache",
    "data.make.processes",
)  # fmt: skip
"""Those that may differ even for a run that has finished training."""

SHAPE = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "data.batch_size")
"""Settings that `resume=` may change together, as long as a batch of all processes keeps its number of images: each
batch of an epoch then holds the same images, however many processes share it."""


def settings_of(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted key and the value of every setting in a config."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from settings_of(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings in which two plain configs differ, with both values; None where a config lacks the setting."""
    one, other = dict(settings_of(before)), dict(settings_of(after))
    found = {key: (one.get(key), other.get(key)) for key in sorted({*one, *other})}
    return {key: values for key, values in found.items() if values[0] != values[1]}


def is_among(key: str, settings: Iterable[str]) -> bool:
    """Whether a setting is one of these, or in a section that is."""
    return any(key == setting or key.startswith((f"{setting}.", f"{setting}[")) for setting in settings)


def refuse_changes(folder: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The changes that `resume=folder` makes; ConfigError for one that a run which has begun cannot take."""
    made = changes(before, after)
    sides = [dict(settings_of(config)) for config in (before, after)]
    if any(key in SHAPE for key in made):
        _check_shape(folder, *sides)
    for key, (old, new) in list(made.items()):
        if not all(_is_known(key, side) for side in sides):  # a setting that only one of two versions has
            del made[key]
        elif not is_among(key, (*CHANGEABLE, *SHAPE)) or key.endswith("_target_"):
            raise ConfigError(
                f"resume={folder}: {key} is {_shown(old)} in this run and cannot become {_shown(new)} now that it has "
                f"begun; leave it out, or start another run from these weights: init={folder} {key}={_shown(new)}"
            )
    return made


def _check_shape(folder: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """ConfigError where a batch of all processes would have another number of images than before."""
    numbers = ("data.batch_size", "trainer.devices", "trainer.num_nodes")
    if not all(isinstance(side.get(key), int) for side in (before, after) for key in numbers):
        return
    each, devices, nodes = (before[key] for key in numbers)
    images, processes = each * devices * nodes, after["trainer.devices"] * after["trainer.num_nodes"]
    if images == after["data.batch_size"] * processes:
        return
    key = next(key for key in SHAPE if before.get(key) != after.get(key))
    fix = f"set data.batch_size={images // processes}"
    if images % processes:
        fix = f"use a number of processes that divides {images}"
    raise ConfigError(
        f"resume={folder}: {key} is {_shown(before.get(key))} in this run and cannot become {_shown(after.get(key))}: "
        f"a batch of all processes would have {after['data.batch_size'] * processes} images in place of {images}, and "
        f"steps, learning rate and the rest of the epoch go by it. With trainer.devices x trainer.num_nodes at "
        f"{processes}, {fix}; or leave it out, or start another run from these weights: init={folder}"
    )


def _is_known(key: str, settings: Mapping[str, Any]) -> bool:
    """Whether a config has a setting, a value in place of one of its sections, or settings inside it."""
    parents = (key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1))
    return key in settings or any(p in settings for p in parents) or any(k.startswith(f"{key}.") for k in settings)


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
