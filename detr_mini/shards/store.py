"""The image files of a split by their place, out of shards: any of them, in any order, by one read.

LitData's `StreamingDataset` also gives items by index. It maps a whole chunk for that, downloads a whole chunk where it
is remote, and compares no checksum; docs/log/many-processes.md has the times of both.
"""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from detr_mini.errors import DataError
from detr_mini.progress import BAR_FROM, track
from detr_mini.safe_files import reason
from detr_mini.shards.index import SplitIndex, StoredFile, fault_of, read_index
from detr_mini.shards.remote import Remote, remote_of

COLUMNS = ("image_id", "shard", "offset", "bytes", "crc32", "height", "width", "turned")
"""Of a table: a row for each image, ids ascending. Height and width are of the upright image; `turned`: it is stored
sideways."""
OPEN = 128
"""Files that are kept open, at most."""


class ShardStore:
    """The encoded images of the split `name` in a folder of shards, or in a local copy of one (`remote`)."""

    def __init__(self, root: Path, name: str) -> None:
        """DataError where the folder, or a file in it, is not there, was cut off or has changed."""
        self.root, self.name = root, name
        self.index = read_index(root)
        if name not in self.index.splits:
            raise DataError(f"{root} has no split {name} (there are: {', '.join(self.index.splits)}); check data.root")
        self.remote = remote_of(root)
        for file in self.split.files:
            small = file in (self.split.annotations, self.split.table)
            if (small or self.remote is None) and (fault := fault_of(root, file, content=small)):
                raise DataError(f"{fault}; copy it again, or {self.index.again(root)}")
        if self.table.shape != (self.split.images, len(COLUMNS)):
            raise DataError(f"{root / self.split.table.name} is no table of {self.split.images} images; "
                            f"{self.index.again(root)}")  # fmt: skip
        self._check_places()
        self._handles: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "name": self.name, "index": self.index, "remote": self.remote}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _handles=OrderedDict(), _lock=threading.Lock())

    @property
    def split(self) -> SplitIndex:
        """The split's files."""
        return self.index.splits[self.name]

    @property
    def annotations(self) -> Path:
        """The split's COCO file."""
        return self.root / self.split.annotations.name

    @cached_property
    def table(self) -> Int[np.ndarray, "n k"]:
        """See `COLUMNS`; mapped into memory, which forked workers share."""
        try:
            table: np.ndarray = np.load(self.root / self.split.table.name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.root / self.split.table.name} cannot be read ({error}); "
                            f"{self.index.again(self.root)}") from None  # fmt: skip
        return table

    def _check_places(self) -> None:
        """DataError where an image would lie outside its shard."""
        shard, offset, size = (self.column(name) for name in ("shard", "offset", "bytes"))
        ends = np.array([file.bytes for file in self.split.shards] or [0], np.int64)
        inside = (shard >= 0) & (shard < len(ends)) & (offset >= 0) & (size >= 0)
        if not inside.all() or (offset + size > ends[shard]).any():
            raise DataError(f"{self.root / self.split.table.name} names bytes outside the shards; "
                            f"{self.index.again(self.root)}")  # fmt: skip

    def column(self, name: str) -> Int[np.ndarray, " n"]:
        """One of `COLUMNS`."""
        return self.table[:, COLUMNS.index(name)]

    def name_of(self, place: int) -> str:
        """What an error calls an image."""
        return f"image {self.column('image_id')[place]} in {self._path(int(self.column('shard')[place]))}"

    def content(self, place: int) -> bytes:
        """The file of an image. DataError where its bytes are not those that were written."""
        _, shard, offset, size, crc = self.table[place, :5].tolist()
        if self.remote is not None:
            return self._from_remote(self.remote, place)
        content = self._read(shard, offset, size)
        if zlib.crc32(content) != crc:
            raise DataError(f"{self.name_of(place)} has changed since it was written: its checksum is another one; "
                            f"copy the shard again, or {self.index.again(self.root)}")  # fmt: skip
        return content

    def _path(self, shard: int) -> Path:
        return self.root / self.split.shards[shard].name

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        """Not mapped: a file that is cut while it is read then gives an error, where a map would end the process."""
        path = self._path(shard)
        try:
            with self._lock:
                return _read_at(self._handle(path, self.split.shards[shard]), size, offset)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({reason(error)}); copy it again, or "
                            f"{self.index.again(self.root)}") from None  # fmt: skip

    def _handle(self, path: Path, shard: StoredFile | None = None) -> int:
        """An open file. Of a copy it is opened for writing, too, and made where it is not there."""
        handle = self._handles.pop(path, None)
        if handle is None:
            if len(self._handles) >= OPEN:
                os.close(self._handles.popitem(last=False)[1])
            if self.remote is None and shard is not None and (fault := fault_of(self.root, shard)):
                raise DataError(f"{fault}; copy it again, or {self.index.again(self.root)}")
            flags = os.O_RDONLY if self.remote is None else os.O_RDWR | os.O_CREAT
            handle = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600)
        self._handles[path] = handle
        return handle

    def __del__(self) -> None:
        for handle in self.__dict__.get("_handles", {}).values():
            os.close(handle)

    def _from_remote(self, remote: Remote, place: int) -> bytes:
        """An image of the copy; it comes from the address where the copy does not have it, or has other bytes.

        The file `here` of a split has a byte for each image: 1 where the copy has it. All processes of a host share it.
        """
        _, shard, offset, size, crc = self.table[place, :5].tolist()
        here = self.root / self.name / "here"
        try:
            with self._lock:
                there = _read_at(self._handle(here), 1, place) == b"\1"
            if there and zlib.crc32(content := self._read(shard, offset, size)) == crc:
                return content
            content = remote.read(self.split.shards[shard].name, offset, offset + size)
            if zlib.crc32(content) != crc:
                raise DataError(f"image {self.column('image_id')[place]} in {remote.shown}/"
                                f"{self.split.shards[shard].name} has changed since it was written: its checksum is "
                                "another one; copy the shard there again")  # fmt: skip
            with self._lock:
                _write_at(self._handle(self._path(shard)), content, offset)
                _write_at(self._handle(here), b"\1", place)
        except OSError as error:
            raise DataError(f"the copy of {remote.shown} in {self.root} cannot be used ({reason(error)}); make space, "
                            "or set data.shard_cache to another folder") from None  # fmt: skip
        return content


def _read_at(handle: int, size: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, size, offset)
    os.lseek(handle, offset, os.SEEK_SET)  # Windows, where no process is forked that would share the position
    return os.read(handle, size)


def _write_at(handle: int, content: bytes, offset: int) -> None:
    if hasattr(os, "pwrite"):
        written = os.pwrite(handle, content, offset)
    else:
        os.lseek(handle, offset, os.SEEK_SET)
        written = os.write(handle, content)
    if written < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def compare_checksums(root: Path) -> int:
    """Read everything in a folder of shards, or at its address; the number of files. DataError for what has changed."""
    index = read_index(root)
    files = index.files
    if remote_of(root) is not None:
        stores = [ShardStore(root, name) for name in index.splits]
        images = [(store, place) for store in stores for place in range(store.split.images)]
        for store, place in track(images, "Comparing checksums", at_least=BAR_FROM):
            store.content(place)
        return len(files)
    found = track(files, "Comparing checksums", at_least=2)
    faults = [fault for file in found if (fault := fault_of(root, file, content=True))]
    if faults:
        raise DataError(f"{faults[0]} ({len(faults)} of {len(files)} files have a fault); copy them again, or "
                        f"{index.again(root)}")  # fmt: skip
    return len(files)
