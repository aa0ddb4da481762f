"""Signals that ask a training to stop: Ctrl-C, SIGTERM, and SIGUSR1, which schedulers send before the time is over."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def stopping() -> list[signal.Signals]:
    """Signals that stop a training. Not SIGUSR1 where another package, such as submitit, has its own use for it."""
    found = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    return [number for number in found
            if number.name != "SIGUSR1" or signal.getsignal(number) in (signal.SIG_DFL, _stop_now)]  # fmt: skip


def _stop_now(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR1 do what Ctrl-C does: before and after the steps of a training there is no state."""
    former = {}
    if threading.current_thread() is threading.main_thread():
        free = [number for number in stopping() if signal.getsignal(number) == signal.SIG_DFL]
        former = {number: signal.signal(number, _stop_now) for number in free}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
