"""Shards in an object store or on a web server (s3://, gs://, hf://, https://), with a copy on the local disk.

The folder of the copy looks like the folder of the shards. The index, the annotations and the tables are copied at the
start, the bytes of an image when it is needed first. The shards of the copy are sparse files: an image that is not
there yet takes no space.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import time
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from detr_mini.errors import ConfigError, DataError, install
from detr_mini.safe_files import read_text, reason, user_cache
from detr_mini.shards.index import INDEX, StoredFile, fault_of, parsed

ADDRESS = "address"
"""The file of a copy that holds the address of the shards."""
PAUSES = (0.5, 2.0, 5.0)
"""Seconds before each further attempt to read something that could not be read."""
SECONDS = 60.0
"""The time that one request may take."""
PIECE = 8 << 20
"""Bytes of a large file that are read by one request."""
Result = TypeVar("Result")
_addresses: dict[str, str] = {}
"""Of each copy that this process has made or brought up to date, the address."""


def is_address(root: str | Path) -> bool:
    """Whether `data.root` is an address instead of a folder."""
    return "://" in str(root)


def local_folder(root: str | Path, cache: str | Path | None) -> Path:
    """The folder to read a dataset from: `root`, or the local copy of shards that lie at an address.

    `cache`: the folder of all copies; None: `detr-mini` in the user's folder for caches. DataError where the address
    cannot be read.
    """
    if not is_address(root):
        return Path(root).expanduser()
    remote = Remote(str(root))
    text = remote.read(INDEX)
    index = parsed(text, f"{remote.shown}/{INDEX}")
    # shards that are written again at the same address get a new copy
    mark = hashlib.sha256(remote.address.encode() + b"\0" + text).hexdigest()[:16]
    name = re.sub(r"[^\w.-]", "_", remote.address.rpartition("/")[2][:40])
    folder = _caches(cache) / f"{name or 'shards'}-{mark}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        small = [file for split in index.splits.values() for file in (split.annotations, split.table)]
        for file in (index.sources, *small):
            if fault_of(folder, file, content=True):
                _copy(remote, file, folder / file.name)
        _write(folder / ADDRESS, remote.address.encode())
        _write(folder / INDEX, text)
        _addresses[os.path.realpath(folder)] = remote.address
    except OSError as error:
        raise DataError(f"shards cannot be copied to {folder} ({reason(error)}); set data.shard_cache to a folder "
                        "with enough space") from None  # fmt: skip
    return folder


def remote_of(folder: Path) -> Remote | None:
    """Where the shards lie that a folder is a copy of, if `local_folder` has made it; None for any other folder.

    A file called like `ADDRESS` in somebody else's folder leads nowhere: it could name any address.
    """
    real, own = os.path.realpath(folder), user_cache("shards")
    address = _addresses.get(real)
    if address is None and own is not None and os.path.dirname(real) == os.path.realpath(own):
        with suppress(OSError, UnicodeDecodeError):
            address = read_text(folder / ADDRESS)
    return None if address is None else Remote(address)


def _caches(cache: str | Path | None) -> Path:
    folder = user_cache("shards") if cache is None else Path(cache).expanduser()
    if folder is None:
        raise ConfigError("this user has no home folder for copies of shards; set data.shard_cache to a folder")
    return folder


def _copy(remote: Remote, file: StoredFile, path: Path) -> None:
    pieces = range(0, file.bytes, PIECE)
    content = b"".join(remote.read(file.name, begin, min(begin + PIECE, file.bytes)) for begin in pieces)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DataError(f"{remote.shown}/{file.name} is not what was written: its checksum is another one; copy "
                        "the shards there again")  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    _write(path, content)


def _write(path: Path, content: bytes) -> None:
    """Several processes of a host may do so at once: each writes a file of its own and renames it."""
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class Remote:
    """Files below an address, read by ranges."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._opened: tuple[int, Any, str] | None = None

    @property
    def shown(self) -> str:
        """The address, without what may be a password."""
        parts = urllib.parse.urlsplit(self.address)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "_opened": None}

    def read(self, name: str, begin: int | None = None, end: int | None = None) -> bytes:
        """A file, or its bytes from `begin` to `end`. DataError where several attempts do not read it."""

        def attempt() -> bytes:
            files, base = self._files()
            content = _in_time(files, f"{base}/{name}", begin, end)
            if begin is not None and end is not None and len(content) != end - begin:
                raise OSError(f"{len(content):,} bytes came instead of {end - begin:,}; does the server answer "
                              "requests for a range of bytes?")  # fmt: skip
            return content

        return _patiently(attempt, f"{self.shown}/{name}")

    def _files(self) -> tuple[Any, str]:
        """A process's own connection: those of before a fork are not used."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), *_connected(self.address)
        return self._opened[1:]


def _connected(address: str) -> tuple[Any, str]:
    scheme = address.partition("://")[0]
    try:
        import fsspec

        if scheme in ("http", "https") and importlib.util.find_spec("aiohttp") is None:
            raise ImportError("aiohttp")
        files, base = fsspec.core.url_to_fs(address, skip_instance_cache=True)
    except ImportError:
        raise DataError(f"{scheme}:// needs packages that are not installed; {install('shards')}") from None
    except ValueError as error:
        raise ConfigError(f"data.root begins with {scheme}://, which cannot be read ({error}); use s3://, gs://, "
                          "hf://, https:// or a folder") from None  # fmt: skip
    return files, str(base).rstrip("/")


def _in_time(files: Any, path: str, begin: int | None, end: int | None) -> bytes:
    if getattr(files, "async_impl", False):
        from fsspec.asyn import sync

        content: bytes = sync(files.loop, files._cat_file, path, start=begin, end=end, timeout=SECONDS)
        return content
    return bytes(files.cat_file(path, start=begin, end=end))


def _patiently(attempt: Callable[[], Result], what: str) -> Result:
    """The result of the first attempt that succeeds. DataError with the last one's reason where none does."""
    for pause in (*PAUSES, None):
        try:
            return attempt()
        except (DataError, ConfigError):
            raise
        except Exception as error:  # each file system has its own errors
            if pause is None:
                why = "there is no such file" if isinstance(error, FileNotFoundError) else _why(error)
                raise DataError(f"{what} cannot be read ({why}), after {len(PAUSES) + 1} attempts; check the address, "
                                "the network and the permissions, then start again") from error  # fmt: skip
            time.sleep(pause)
    raise AssertionError


def _why(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
