"""The length of a training, in optimizer steps, in seconds, or both, and how much of it is done."""

from __future__ import annotations

import time


class Budget:
    """A training's length in `steps` or in `seconds`; with both, whichever is nearer to its end counts.

    The clock runs only between `start` and `pause`, so evaluation does not count. Checkpoints hold `elapsed`, so a
    resumed training continues from there.
    """

    def __init__(self, *, steps: int | None = None, seconds: float | int | None = None) -> None:
        if steps is None and seconds is None:
            raise ValueError("a budget needs steps, seconds, or both")
        self.steps, self.seconds = steps, seconds
        self._elapsed = 0.0
        self._since: float | None = None
        self._agreed: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self._elapsed + (0.0 if self._since is None else time.perf_counter() - self._since)

    def start(self) -> None:
        """Start the clock."""
        if self._since is None:
            self._since = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock."""
        self._elapsed, self._since = self.elapsed, None

    def set_elapsed(self, seconds: float | int) -> None:
        """Set the clock, from a checkpoint or to the mean over processes."""
        self._elapsed = seconds
        if self._since is not None:
            self._since = time.perf_counter()

    def agree(self, seconds: float | int) -> None:
        """Set the clock to a time that all processes agree on, at the same step."""
        self.set_elapsed(seconds)
        self._agreed = seconds

    def progress(self, step: int) -> float:
        """The share of the training, in [0, 1], that is done after `step` steps."""
        return self._share(step, self.elapsed)

    def agreed_progress(self, step: int) -> float:
        """`progress` by the time agreed on last, so that it is the same number in all processes.

        If one process alone began an evaluation, or ended, it would wait for the others forever.
        """
        return self._share(step, self.elapsed if self._agreed is None else self._agreed)

    def _share(self, step: int, elapsed: float) -> float:
        by_steps = 0.0 if self.steps is None else step / self.steps
        by_time = 0.0 if self.seconds is None else elapsed / self.seconds
        return min(1.0, max(by_steps, by_time))

    def over(self, step: int) -> bool:
        """Whether the training ends after `step` steps."""
        return self.progress(step) >= 1.0
