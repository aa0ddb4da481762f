"""The settings of a config's `trainer` section: length, device, precision. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from detr_mini.errors import ConfigError, nearest

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class TrainerOptions:
    """At least one of `max_epochs`, `max_steps` and `max_minutes` is set; the first one reached ends the training."""

    max_epochs: int | None = None
    max_steps: int | None = None
    """Steps of the optimizer."""
    max_minutes: float | int | None = None
    """Without evaluation. The number of steps then depends on the machine's speed."""
    validate_every_epochs: int = 1
    validations: int | None = None
    """A number of evaluations, spread evenly over the training, at ends of epochs; replaces `validate_every_epochs`."""
    save_every_minutes: float | int = 10.0
    """After which last.ckpt is written again; it is also written after each evaluation and at the end."""
    accelerator: str = "cpu"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    timeout_minutes: float | int = 30
    """After which processes that wait for each other give up; one that fails ends the others long before."""
    precision: str = "auto"
    """This and what else may be "auto": `device.chosen_for` decides."""
    tf32: bool | str = "auto"
    """Float32 products of a GPU: with TF32 or exact."""
    accumulate: int = 1
    """Batches per optimizer step."""
    coarse_scale: float | int = 1.0
    coarse_until: float | int = 0.0
    """Until this share of the training is done, images are `coarse_scale` times as wide and high."""
    coarse_grow: bool = False
    """Whether they grow linearly up to there, instead of all at once."""
    compile: bool = False
    channels_last: bool | str = "auto"
    threads: int | None = None
    """CPU threads per process; None: torch's own choice."""
    log_every_steps: int = 50
    progress: bool = True

    @property
    def device_type(self) -> str:
        """ "cuda" or "cpu"."""
        if self.accelerator != "auto":
            return "cuda" if self.accelerator in ("gpu", "cuda") else "cpu"
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def epoch_steps(self, images: int, batch_size: int) -> int:
        """Optimizer steps in one pass over `images`, with `batch_size` images per process."""
        return -(-self._epoch_batches(images, batch_size) // self.accumulate)

    def _epoch_batches(self, images: int, batch_size: int) -> int:
        return max(1, images // (self.devices * self.num_nodes) // batch_size)

    def step_of(self, batches: int, images: int, batch_size: int) -> int:
        """The optimizer step that a batch belongs to, given how many `batches` come before it in all epochs.

        A step ends with the epoch, however few batches it has by then.
        """
        epoch, batch = divmod(batches, self._epoch_batches(images, batch_size))
        return epoch * self.epoch_steps(images, batch_size) + batch // self.accumulate

    def steps(self, images: int, batch_size: int) -> int | None:
        """Optimizer steps after which the training ends; None if only time ends it."""
        lengths = [] if self.max_steps is None else [self.max_steps]
        if self.max_epochs is not None:
            lengths.append(self.max_epochs * self.epoch_steps(images, batch_size))
        return min(lengths, default=None)

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> TrainerOptions:
        """The options of a config's section. ConfigError for an unknown key and for a bad value."""
        known = {entry.name: entry.default for entry in fields(cls)}
        for key in section:
            if key not in known:
                raise ConfigError(f"trainer.{key} does not exist{nearest(str(key), known)}")
        values = {**known, **section}
        lengths = ("max_epochs", "max_steps", "max_minutes")
        given = [name for name in lengths if values[name] is not None]
        if not given:
            raise ConfigError(
                "the training has no end; set trainer.max_epochs, trainer.max_steps or trainer.max_minutes, "
                "or choose an experiment=... (see 'detr-mini train --help')"
            )
        counts = ["validate_every_epochs", "save_every_minutes", "timeout_minutes", "devices", "num_nodes",
                  "accumulate", "log_every_steps"]  # fmt: skip
        if values["validations"] is not None:
            counts.append("validations")
            if values["validate_every_epochs"] is None:  # which validations replaces
                values["validate_every_epochs"] = known["validate_every_epochs"]
        for name in (*given, *counts):
            value, fraction = values[name], name.endswith("minutes")
            fits = isinstance(value, int | float) if fraction else isinstance(value, int)
            if not fits or isinstance(value, bool) or value <= 0:
                kind = "a number" if fraction else "a whole number"
                shown = "null" if value is None else repr(value)
                raise ConfigError(f"trainer.{name} is {shown}; it must be {kind} greater than 0")
        for name, least in (("coarse_scale", 0.1), ("coarse_until", 0.0)):
            value = values[name]
            if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= 1:
                raise ConfigError(f"trainer.{name} is {value!r}; it must be a number from {least:g} to 1")
        if values["precision"] not in PRECISIONS:
            raise ConfigError(f"trainer.precision is '{values['precision']}'; choose one of {', '.join(PRECISIONS)}")
        return cls(**values)
