"""Settings of a process that computes on a CPU: freed memory, denormal numbers, forks, bfloat16."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""glibc's names, see mallopt(3)."""

if hasattr(os, "register_at_fork"):
    # A forked child has none of its parent's threads, but GNU OpenMP does not know that and would wait for them forever
    # at the first parallel computation. With one thread nothing is parallel.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def keep_freed_memory() -> bool:
    """Let the process keep freed memory for the next step; True if the C library supports that.

    By default glibc maps each large block separately and returns it to the system at once. Every step then asks for it
    again, and the system zeroes it page by page, which takes half of a step's time with large images
    (docs/log/photographs.md). Blocks above 32 MiB are mapped whatever M_MMAP_THRESHOLD is, so mapping is switched off.

    What was kept so far is given back first. After an earlier training in this process that may be several gigabytes,
    and the processes that load images would keep a copy of each page on which this process writes after the fork.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError):
        return False
    gc.collect()
    trim(0)
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)


@contextmanager
def tiny_numbers_as_zero() -> Iterator[None]:
    """Inside, denormal numbers count as zero: decaying moments and weights would slow a core down a hundredfold."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # otherwise the whole process would keep computing like this


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch computes with `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def fast_bfloat16() -> bool:
    """Whether this CPU multiplies matrices faster in bfloat16 than in float32, measured once in some milliseconds.

    The instruction set does not decide that: with AMX tiles it is ten times as fast, with AVX-512's bfloat16 alone it
    can be half as fast.
    """
    if not getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
        return False
    with threads(1):
        return _product_seconds(torch.bfloat16) < _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype) -> float:
    """CPU time of this thread for a matrix product, so that other processes do not count."""
    a, b = torch.ones(512, 192, dtype=dtype), torch.ones(192, 1152, dtype=dtype)
    times = []
    for _ in range(9):
        started = time.thread_time()
        a @ b
        times.append(time.thread_time() - started)
    return min(times)
