"""What a process asks of all processes of its training: to stop, or to save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass
class Requests:
    """Wishes of this process, and what all processes know of each other's.

    A signal reaches one process, and each has its own clock, while saving and stopping are for all at the same step.
    So the wishes travel with sums over all processes that are needed anyway (`as_numbers`, then `agree`).
    """

    stop: bool = False
    """A signal has asked this process to stop."""
    save_is_due: Callable[[], bool] = field(default=lambda: False)
    """Whether it is time to save, by the clock of the first process; the others never ask."""
    alone: bool = True
    """Whether there is no other process to agree with."""
    all_stop: bool = False
    all_save: bool = False

    @property
    def stops(self) -> bool:
        """Whether the training stops at this step."""
        return self.stop if self.alone else self.all_stop

    @property
    def saves(self) -> bool:
        """Whether this step is saved; the last one always is."""
        return self.stops or (self.save_is_due() if self.alone else self.all_save)

    def as_numbers(self) -> list[float]:
        """To be summed over all processes."""
        return [float(self.stop), float(self.save_is_due())]

    def agree(self, sums: Sequence[float]) -> None:
        """Take the sums over all processes: what one asks for, all do."""
        self.all_stop, self.all_save = (value > 0 for value in sums)
