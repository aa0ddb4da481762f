"""The settings of a config's `trainer` section: how long, on what, in which precision. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from detr_mini.errors import ConfigError, nearest

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "64-true")


@dataclass(frozen=True)
class TrainerOptions:
    """At least one of `max_epochs`, `max_steps` and `max_minutes` is set. Where several are, the first that is reached
    ends the training; the learning rate falls to zero over it."""

    max_epochs: int | None = None
    max_steps: int | None = None
    """Steps of the optimizer."""
    max_minutes: float | int | None = None
    """Minutes of training; evaluation is not counted. Where such a run ends depends on the machine's speed."""
    validate_every_epochs: int = 1
    validations: int | None = None
    """So many evaluations, evenly over the training, each at the end of an epoch; then not every so many epochs."""
    save_every_minutes: float | int = 10.0
    """`last.ckpt` is written after each epoch, and this often inside a long one."""
    accelerator: str = "cpu"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    """auto: bf16-mixed where the device is faster in bfloat16 (measured), 32-true elsewhere."""
    accumulate: int = 1
    """Batches a step of the optimizer."""
    coarse_scale: float | int = 1.0
    coarse_until: float | int = 0.0
    """Up to this share of the training, images are `coarse_scale` times as wide and high."""
    coarse_grow: bool = False
    """They begin so and grow evenly up to there, in place of all at once."""
    compile: bool = False
    channels_last: bool = True
    threads: int | None = None
    """CPU threads a process; None: torch's own choice."""
    log_every_steps: int = 50
    progress: bool = True

    @property
    def device_type(self) -> str:
        """ "cuda" or "cpu"."""
        return "cuda" if self.accelerator in ("gpu", "cuda") else "cpu"

    def epoch_steps(self, images: int, batch_size: int) -> int:
        """Steps of the optimizer in one pass over so many images, `batch_size` a process."""
        batches = max(1, images // (self.devices * self.num_nodes) // batch_size)
        return -(-batches // self.accumulate)

    def steps(self, images: int, batch_size: int) -> int | None:
        """Steps of the optimizer after which the training ends; None where only the time ends it."""
        lengths = [] if self.max_steps is None else [self.max_steps]
        if self.max_epochs is not None:
            lengths.append(self.max_epochs * self.epoch_steps(images, batch_size))
        return min(lengths, default=None)

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> TrainerOptions:
        """The options that a config's section says. ConfigError for a key that does not exist and for a bad value."""
        known = {entry.name: entry.default for entry in fields(cls)}
        for key in section:
            if key not in known:
                raise ConfigError(f"trainer.{key} does not exist{nearest(str(key), known)}")
        values = {**known, **section}
        lengths = ("max_epochs", "max_steps", "max_minutes")
        given = [name for name in lengths if values[name] is not None]
        if not given:
            raise ConfigError(
                "nothing says when training ends; set trainer.max_epochs, trainer.max_steps or trainer.max_minutes, "
                "or choose an experiment=... (see 'detr-mini train --help')"
            )
        counts = ["validate_every_epochs", "save_every_minutes", "devices", "num_nodes", "accumulate",
                  "log_every_steps"]  # fmt: skip
        if values["validations"] is not None:
            counts.append("validations")
            if values["validate_every_epochs"] is None:  # "not every so many epochs": what validations means
                values["validate_every_epochs"] = known["validate_every_epochs"]
        for name in (*given, *counts):
            value, fraction = values[name], name.endswith("minutes")
            fits = isinstance(value, int | float) if fraction else isinstance(value, int)
            if not fits or isinstance(value, bool) or value <= 0:
                kind = "a number" if fraction else "a whole number"
                said = "null" if value is None else repr(value)
                raise ConfigError(f"trainer.{name} is {said}; it must be {kind} greater than 0")
        for name, least in (("coarse_scale", 0.1), ("coarse_until", 0.0)):
            value = values[name]
            if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= 1:
                raise ConfigError(f"trainer.{name} is {value!r}; it must be a number from {least:g} to 1")
        if values["precision"] not in PRECISIONS:
            raise ConfigError(f"trainer.precision is '{values['precision']}'; choose one of {', '.join(PRECISIONS)}")
        return cls(**values)
