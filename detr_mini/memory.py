"""What a process sets to compute on a CPU: the C library's way with freed memory, the cores' way with tiny numbers."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""glibc's names, see mallopt(3)."""


def keep_freed_memory() -> bool:
    """Let the process keep memory that a step has freed, for the next step to use; whether the C library does.

    By default glibc gives blocks of a few megabytes back to the system at once. Every step then asks for them anew, and
    the system hands them out page by page, zeroed: a fifth of a step's time (docs/results.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)


@contextmanager
def tiny_numbers_as_zero() -> Iterator[None]:
    """Denormal numbers count as zero inside: fading moments and weights would slow a core down a hundredfold."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # the whole process would otherwise compute like this
