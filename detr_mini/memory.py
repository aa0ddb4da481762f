"""What a process sets to compute on a CPU: the C library's way with freed memory, the cores' way with tiny numbers."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""glibc's names, see mallopt(3)."""


def keep_freed_memory() -> bool:
    """Let the process keep memory that a step has freed, for the next step to use; whether the C library does.

    By default glibc maps each large block by itself and gives it back to the system at once. Every step then asks for
    it again, and the system hands it out page by page, zeroed: half of a step's time with large images
    (docs/results.md). Blocks above 32 MiB are mapped whatever M_MMAP_THRESHOLD says, so mapping is switched off.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20))
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


@cache
def amx() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 with AMX tiles, ten times as fast as with AVX-512.

    Without them its bfloat16 products are slower than those in float32.
    """
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
