"""The processes that load images: how many, and what goes wrong with them, in sentences (no shared memory, lost)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from detr_mini.environment import own_cores
from detr_mini.errors import DataError, UserError

MOST = 8
"""Workers of a process at most, where their number is chosen."""
SHARED = Path("/dev/shm")
"""Where Linux keeps the memory through which a worker hands a batch over."""
FIX = (
    "set data.workers=0, use smaller batches (data.batch_size, data.eval_batch_size), or make it larger "
    "(docker run --shm-size=2g; mount -o remount,size=2g /dev/shm)"
)


def bytes_of(images: int, pixels: int, value_bytes: int) -> int:
    """Of a batch of images of this many pixels, with three values for each."""
    return images * pixels * 3 * value_bytes


def choose_workers(processes: int, batch_bytes: int) -> int:
    """As many as each of this machine's `processes` has cores, and as have room for two batches in shared memory."""
    free = _free_memory()
    room = MOST if free is None else free // (2 * batch_bytes * processes)
    return min(MOST, own_cores(processes), room)


def _free_memory() -> int | None:
    """Bytes of shared memory; None where it is not a file system."""
    try:
        found = os.statvfs(SHARED)
    except (OSError, AttributeError):  # no such file system, or no Linux
        return None
    return int(found.f_bavail * found.f_frsize)


def check_shared_memory(workers: int, images: int, pixels: int, value_bytes: int = 4) -> None:
    """UserError where a batch of each worker does not fit into shared memory: torch would wait for it for ever.

    A batch is this many `images` of at most `pixels`, with three values of `value_bytes`. It is the least that is
    needed: each worker makes a second batch while the first one waits.
    """
    free, each = _free_memory(), bytes_of(images, pixels, value_bytes)
    if free is not None and free < workers * each:
        raise UserError(
            f"{SHARED} has {_mega(free)} MB of shared memory free, and data.workers={workers} needs at least "
            f"{_mega(workers * each)} MB there, {_mega(each)} MB for a batch of each worker; {FIX}"
        )


def _mega(count: int) -> str:
    return f"{count / 1e6:,.0f}" if count >= 1e7 else f"{count / 1e6:.1f}"


def into_shared_memory(value: Any, as_bytes: tuple[type, ...] = ()) -> None:
    """Move every tensor of a batch there now, in a worker, but those of records that travel `as_bytes`.

    DataError where there is no room. Otherwise torch does it later, in a thread whose errors are lost, and the training
    waits for ever.
    """
    try:
        _share(value, as_bytes)
    except RuntimeError as error:
        raise DataError(f"{SHARED} is full: a worker could not hand its batch over ({_first(error)}); {FIX}") from error


def _share(value: Any, as_bytes: tuple[type, ...]) -> None:
    if isinstance(value, as_bytes):
        return
    if isinstance(value, Tensor):
        value.share_memory_()
    elif is_dataclass(value):
        for entry in fields(value):
            _share(getattr(value, entry.name), as_bytes)
    elif isinstance(value, Mapping):
        for item in value.values():
            _share(item, as_bytes)
    elif isinstance(value, list | tuple):
        for item in value:
            _share(item, as_bytes)


def lost_worker(error: BaseException) -> str | None:
    """The sentence for torch's complaint that a worker is gone; None for any other error."""
    match = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", str(error))
    if not isinstance(error, RuntimeError) or match is None:
        return None
    worker, end = f"a process that loads images (pid {match[1].strip()})", match[2]
    if "shared memory" in end or "Bus error" in end:
        return f"{worker} found {SHARED} full; {FIX}"
    signal = re.search(r"killed by signal: ([\w ]+)", end)
    code = re.search(r"exit code (\d+)", end)
    if code is not None:
        return f"{worker} ended with exit code {code[1]}; data.workers=0 shows what it stumbles over"
    name = f" ({signal[1].strip()})" if signal else ""
    return (
        f"{worker} was killed{name}, most often because memory ran out; use fewer of them (data.workers), less "
        "data.cache_megabytes or smaller batches"
    )


def _first(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
