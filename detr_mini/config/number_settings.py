"""The range of every numeric setting, checked for every verb before anything is read or built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from detr_mini.errors import ConfigError

WHOLE_FROM_1 = frozenset((
    "accumulate", "at_once", "batch_size", "captions_per_image", "channels", "copies", "count",
    "cpus", "depth", "detection_limit", "devices", "dim", "each", "eval_batch_size", "features", "feedforward",
    "heads", "jobs", "likenesses", "limit", "limit_train", "limit_val", "log_every_steps", "longest_chain", "matrix",
    "max_epochs", "max_steps", "max_tokens", "num_nodes", "pair_dim", "points", "queries", "rank", "repeats",
    "rounds", "sample_channels", "sample_points", "shorter_side", "size", "sizes", "steps", "strides",
    "threads", "trials", "validate_every_epochs", "validations", "width", "decoder_layers",
))  # fmt: skip
WHOLE_FROM_0 = frozenset((
    "encoder_layers", "blocks", "layers", "frozen_stride", "gallery", "gpus", "pictures", "processes", "random",
    "resamples", "warmup", "warmup_steps", "window", "workers",
))  # fmt: skip
ABOVE_0 = frozenset((
    "lr", "adamw_lr", "clip", "max_minutes", "minutes", "save_every_minutes", "timeout_minutes",
    "memory_gb", "anchor_cells",
))  # fmt: skip
SHARES = frozenset((
    "threshold", "suppress_iou", "distinct_iou", "hold_out", "strong_until", "share", "shares",
    "categories_share", "p", "level",
))  # fmt: skip
BELOW_1 = frozenset((
    "average", "dropout", "momentum", "betas",
))  # fmt: skip
"""Numbers from 0 that must be below 1."""
SEEDS = frozenset(("seed", "seeds"))
MOST = {"size": 65_536, "shorter_side": 65_536}
NULL = frozenset((
    "threshold", "suppress_iou", "distinct_iou", "hold_out", "share", "count", "shorter_side", "limit_train",
    "limit_val", "threads", "max_epochs", "max_steps", "max_minutes", "minutes", "validate_every_epochs",
    "validations", "eval_batch_size", "train", "val", "test", "make", "refer", "captions", "subset",
    "operating_point", "text", "pretrained_text", "tokenizer", "more", "kinds", "names", "config", "augment",
    "augment_strong", "splits", "categories", "ids", "sets", "overrides", "annotation_cache", "labelled",
))  # fmt: skip
"""Settings that may be null although their default is not."""
FREE = ("augment", "augment_strong", "more", "config", "kinds", "names", "nouns", "coarse_scale", "coarse_until")
"""Settings and sections whose numbers are checked elsewhere."""


def check_numbers(given: Any, known: Any, path: str = "") -> None:
    """ConfigError for a number outside its setting's range, and for null where a value is needed.

    `known`: the same config before the user's overrides.
    """
    name = path.rpartition(".")[2].partition("[")[0]
    if name in FREE:
        return
    if given is None and name not in NULL:
        _refuse_null(known, path)
    elif isinstance(given, Mapping):
        for key, value in given.items():
            inner = known.get(key) if isinstance(known, Mapping) else None
            check_numbers(value, inner, f"{path}.{key}" if path else str(key))
    elif isinstance(given, list):
        for index, value in enumerate(given):
            check_numbers(value, None, f"{path}[{index}]")
    elif isinstance(given, int | float) and not isinstance(given, bool):
        kind = _kind(name, given, known, path)
        if kind is not None:
            raise ConfigError(f"{path} is {given}; it must be {kind}")


def _kind(name: str, value: int | float, known: Any, path: str) -> str | None:
    """What the number must be; None where it is in range."""
    whole = isinstance(value, int) or value.is_integer()
    if name in SEEDS:
        return None if whole and 0 <= value < 2**32 else f"a whole number from 0 to {2**32 - 1}"
    split = name in ("train", "val", "test") and (isinstance(known, int) or path.startswith("data.make."))
    if name in WHOLE_FROM_1 or name in WHOLE_FROM_0 or split:
        least, most = int(name in WHOLE_FROM_1), MOST.get(name, math.inf)
        upper = "" if math.isinf(most) else f" and at most {most}"
        fits = whole and least <= value <= most
        return None if fits else f"a whole number greater than 0{upper}" if least else "a whole number, 0 or more"
    if name in SHARES or name in BELOW_1 or name in ("val", "test"):
        fits = 0 <= value <= 1 and not (value == 1 and name in BELOW_1)
        return None if fits else f"a number from 0 to 1{percent_hint(value)}" if name in SHARES else "from 0 to below 1"
    if not math.isfinite(value) or value < 0 or (value == 0 and name in ABOVE_0):
        return "a number greater than 0" if name in ABOVE_0 else "a number, 0 or more"
    return None


def percent_hint(value: int | float) -> str:
    """The end of a sentence about a share that was probably meant as a percentage; empty where it was not."""
    return f"; for {value:g} % write {value / 100:g}" if 1 < value <= 100 else ""


def _refuse_null(known: Any, path: str) -> None:
    if known == "auto":
        raise ConfigError(f"{path} is null; leave it out for auto")
    if isinstance(known, bool):
        raise ConfigError(f"{path} is null; it must be true or false")
    if isinstance(known, int | float):
        raise ConfigError(f"{path} is null; it must be a number (leave it out for the default, {known})")
    if isinstance(known, Mapping | list) and known:
        what = "section" if isinstance(known, Mapping) else "list"
        raise ConfigError(f"{path} is null; this {what} is needed. Leave it out for the default")
