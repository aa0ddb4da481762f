"""How much memory this process has held at most, counted from a moment on."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path


def growth() -> Callable[[], float]:
    """A function that gives the megabytes by which the peak has grown since now, whatever tests before have held."""
    forget = Path("/proc/self/clear_refs")
    if forget.exists():  # on Linux; elsewhere the peak is that of the whole process
        forget.write_text("5")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return lambda: (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
