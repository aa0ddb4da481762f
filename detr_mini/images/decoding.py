"""The memory budget of decoding, shared by all threads and workers that decode images at the same time."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image
from torch.utils.data import get_worker_info

from detr_mini.errors import DataError
from detr_mini.images.encoded import ImageFile

BUDGET = 1 << 30
"""The most bytes that decoding may hold at once. An image that needs more is refused before it is decoded."""
OUTPUT, LEAST = 3, 7
"""Bytes per pixel of the decoded image (8-bit RGB), and the least for any image, with what is computed from it."""
OWN = {"AVIF": 12, "GIF": 4, "JPEG2000": 16, "TIFF": 8, "WEBP": 16}
"""Bytes per pixel that a decoder holds in addition to Pillow's image: other planes, a canvas, whole strips."""
PROGRESSIVE = 6
"""The same for a progressive JPEG, whose coefficients are held until the last scan."""
_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "LA": 4, "PA": 4}
_TILE = (322, 323)
"""The TIFF tags for the width and height of a tile, which is decoded as a whole."""
_room, _used, _mine = threading.Condition(), [0], threading.local()
_lock: dict[str, int] = {}


def bytes_needed(image: Image.Image, deep: int = 0) -> int:
    """The peak memory of decoding an opened image, in bytes. `deep`: its number of 16-bit channels, if any."""
    width, height = image.size
    kind, pixels = image.format or "", width * height
    if kind == "ICO":  # it can hold images of any size
        return BUDGET
    if kind == "TIFF":
        tile = [int(image.tag_v2.get(tag, 0)) for tag in _TILE]  # type: ignore[attr-defined]  # TIFF
        pixels = max(pixels, tile[0] * tile[1])
    if deep:  # as values, packed, as a file, and as values again
        return pixels * (6 * deep + OUTPUT)
    own = PROGRESSIVE if kind in ("JPEG", "MPO") and image.info.get("progressive") else OWN.get(kind, 0)
    return pixels * max(LEAST, _PIXEL.get(image.mode, 4) + own + OUTPUT)


@contextmanager
def room_for(needed: int, path: ImageFile) -> Iterator[None]:
    """Wait until `needed` bytes of the budget are free, and hold them inside. DataError if they exceed the budget.

    The threads of a process share `BUDGET`. Each worker of a loader has `BUDGET / workers`; an image that needs more
    waits until no other worker decodes. When nested in one thread, only the outermost call reserves memory.
    """
    if needed > BUDGET:
        raise DataError(f"{path} takes {needed / 1e9:.1f} GB to decode, over the limit of {BUDGET / 1e9:.1f} GB; "
                        "resize it first")  # fmt: skip
    if getattr(_mine, "inside", False):
        yield
        return
    worker = get_worker_info()
    _mine.inside = True
    try:
        if worker is not None:
            workers = worker.num_workers * int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            with _among_workers(alone=needed > BUDGET // max(workers, 1)):
                yield
            return
        with _room:
            _room.wait_for(lambda: _used[0] + needed <= BUDGET)
            _used[0] += needed
        try:
            yield
        finally:
            with _room:
                _used[0] -= needed
                _room.notify_all()
    finally:
        _mine.inside = False


@contextmanager
def _among_workers(alone: bool) -> Iterator[None]:
    """A lock between processes, shared or exclusive (`alone`). The system releases it when a process dies."""
    try:
        import fcntl
    except ImportError:  # this system has no such locks
        yield
        return
    with suppress(OSError):  # without the lock, two large images may be decoded at once
        if "file" not in _lock:
            name = Path(tempfile.gettempdir()) / f"detr_mini-decoding-{os.getuid()}"
            _lock["file"] = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.lockf(_lock["file"], fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        yield
    finally:
        with suppress(OSError, KeyError):
            fcntl.lockf(_lock["file"], fcntl.LOCK_UN)
