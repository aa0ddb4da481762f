"""The settings of a config's `trainer` section: how long, on what, in which precision. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detr_mini.errors import ConfigError

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "64-true")


@dataclass(frozen=True)
class TrainerOptions:
    """Exactly one of `max_epochs`, `max_steps` and `max_minutes` is set; the learning rate falls to zero over it.

    ConfigError where a value makes no sense.
    """

    max_epochs: int | None = None
    max_steps: int | None = None
    """Steps of the optimizer."""
    max_minutes: float | int | None = None
    """Minutes of training; evaluation is not counted. Where such a run ends depends on the machine's speed."""
    validate_every_epochs: int = 1
    save_every_minutes: float | int = 10.0
    """`last.ckpt` is written after each epoch, and this often inside a long one."""
    accelerator: str = "cpu"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    """auto: bf16-mixed where the processor computes in bfloat16, 32-true elsewhere."""
    accumulate: int = 1
    """Batches a step of the optimizer."""
    compile: bool = False
    channels_last: bool = True
    threads: int | None = None
    """CPU threads a process; None: torch's own choice."""
    log_every_steps: int = 50
    progress: bool = True

    def __post_init__(self) -> None:
        limits = {name: getattr(self, name) for name in ("max_epochs", "max_steps", "max_minutes")}
        given = [name for name, limit in limits.items() if limit is not None]
        if len(given) != 1:
            said = " and ".join(f"trainer.{name}" for name in given) or "none of them"
            raise ConfigError(
                f"a training ends by trainer.max_epochs, trainer.max_steps or trainer.max_minutes, but {said} is set; "
                "set one and the others to null"
            )
        for name in (
            *given,
            *("validate_every_epochs", "save_every_minutes", "devices", "num_nodes", "accumulate", "log_every_steps"),
        ):
            value: Any = getattr(self, name)
            kind: tuple[type, ...] = (int, float) if name.endswith("minutes") else (int,)
            if not isinstance(value, kind) or isinstance(value, bool) or value <= 0:
                whole = "a number" if float in kind else "a whole number"
                raise ConfigError(f"trainer.{name} is {value!r}; it must be {whole} greater than 0")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"trainer.precision is '{self.precision}'; choose one of {', '.join(PRECISIONS)}")
