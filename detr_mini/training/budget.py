"""How much of a training is done: counted in steps of the optimizer, in seconds of training, or in both."""

from __future__ import annotations

import time


class Budget:
    """A training's length, in `steps` or in `seconds`; of both, the one that is nearer to its end counts.

    The clock runs between `start` and `pause` only, so evaluation costs nothing of it. `elapsed` goes into the
    checkpoint: a resumed training goes on where it stood.
    """

    def __init__(self, *, steps: int | None = None, seconds: float | int | None = None) -> None:
        if steps is None and seconds is None:
            raise ValueError("a budget is counted in steps, in seconds, or in both")
        self.steps, self.seconds = steps, seconds
        self._elapsed = 0.0
        self._since: float | None = None
        self._agreed: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self._elapsed + (0.0 if self._since is None else time.perf_counter() - self._since)

    def start(self) -> None:
        """Let the clock run."""
        if self._since is None:
            self._since = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock."""
        self._elapsed, self._since = self.elapsed, None

    def set_elapsed(self, seconds: float | int) -> None:
        """What a checkpoint, or the mean over processes, says instead of the own clock."""
        self._elapsed = seconds
        if self._since is not None:
            self._since = time.perf_counter()

    def agree(self, seconds: float | int) -> None:
        """What several processes take for the time, all of them at the same step."""
        self.set_elapsed(seconds)
        self._agreed = seconds

    def progress(self, step: int) -> float:
        """The share of the training, in [0, 1], that is done when `step` steps are."""
        return self._share(step, self.elapsed)

    def agreed_progress(self, step: int) -> float:
        """`progress` by the time that was agreed on last: the very same number in all processes.

        An evaluation, or the end, that comes to one of them alone would wait for the others for ever.
        """
        return self._share(step, self.elapsed if self._agreed is None else self._agreed)

    def _share(self, step: int, elapsed: float) -> float:
        by_steps = 0.0 if self.steps is None else step / self.steps
        by_time = 0.0 if self.seconds is None else elapsed / self.seconds
        return min(1.0, max(by_steps, by_time))

    def over(self, step: int) -> bool:
        """Whether the training ends after `step` steps."""
        return self.progress(step) >= 1.0
