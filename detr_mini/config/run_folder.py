"""Run folders: created by one process, written file by file, locked while in use (docs/run-folder.md)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from detr_mini.errors import UserError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
BEAT, PATIENCE = 10.0, 75.0
"""Seconds. A holder touches its lock every BEAT. A lock from another machine that is not touched for PATIENCE is stale.
PATIENCE is longer than the minute for which NFS may show an old time."""


def rank() -> int:
    """This process's number among those of one training, as its launcher sets it (torchrun, SLURM, this package).

    Only 0 is exact where a launcher numbers machines and the processes of each: every other process is above it.
    """
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if "LOCAL_RANK" in os.environ or "NODE_RANK" in os.environ:
        return int(os.environ.get("NODE_RANK", "0")) + int(os.environ.get("LOCAL_RANK", "0"))
    return int(os.environ.get("SLURM_PROCID", "0"))


# Whole files


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to. On exit the file is flushed to the disk and renamed to `path`.

    Whatever ends the process, `path` holds its old content or the new one, never a part of either.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a file with this text, as `whole` does. Bytes that are not text become \\udcxx."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    folder = path.is_dir()
    if folder and os.name == "nt":  # Windows cannot flush folders
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError:
        if not folder:  # some file systems refuse it for folders; no file's content is lost by that
            raise
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Remove files that a killed process had not finished writing."""
    for left in (*folder.glob(".*.tmp"), folder / "history.tmp"):  # the second: of earlier versions
        left.unlink(missing_ok=True)


# New folders


def to_go_on(folder: Path) -> bool:
    """Whether a training in `folder` can be continued. One that saved no checkpoint is removed.

    Nothing is removed from a folder that another process uses; resuming there names that process.
    """
    if (folder / "last.ckpt").is_file() or in_use(folder):
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return False


def new_run_folder(root: str | Path, name: str, fixed: str | Path | None = None, key: str = "run_folder") -> Path:
    """A new folder, root/name/<date, time> or `fixed` (the setting `key`), taken at once for one run.

    Where it is taken, a number is added to its name. A folder counts as new if it is empty, or holds only what a
    process left that was killed before it wrote anything. Of the processes of a training only the first creates a
    folder; it sends the path to the others.
    """
    wanted = Path(fixed).expanduser() if fixed else Path(root) / name / time.strftime("%Y-%m-%d_%H-%M-%S")
    if rank() > 0:
        return wanted
    for candidate in _numbered(wanted):
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            if fixed and candidate.is_dir() and is_unused(candidate) and not in_use(candidate):
                return candidate
        except OSError as error:
            raise UserError(
                f"cannot make the run folder {candidate} ({error.strerror or error}); "
                f"choose another with {key}=..., or run where you may write"
            ) from error
    raise AssertionError("unreachable")


def is_unused(folder: Path) -> bool:
    """Whether a folder is empty, or holds only what a process left that was killed before it wrote anything."""
    return all(path.name == LOCK or path.name.endswith(".tmp") for path in folder.iterdir())


def _numbered(path: Path) -> Iterable[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.name}-{number}")
        number += 1


# Locks


_held: list[FolderLock] = []
_own: dict[str, int] = {}
"""Folders locked here, and the process that locked each: a forked child inherits this dict, but not the locks."""
_guard = threading.Lock()


class FolderLock:
    """`.lock` in a folder: one process writes there, and the file names the process, its machine and the time.

    The kernel holds the lock and frees it with the process, however that ends, so a stale lock of this machine is
    recognised at once. A holder on another machine is alive as long as it keeps touching the file. These are POSIX
    record locks, not `flock`, which the workers of a killed training would inherit and might hold for longer.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._key = os.path.realpath(folder)
        self._descriptor = -1
        self._released = threading.Event()

    def acquire(self) -> FolderLock:
        """Take the lock. UserError where another process holds it; the message names that process."""
        with _guard:
            if _own.get(self._key) == os.getpid():  # opening and closing the file again would free it
                raise UserError(_in_use(self.path.parent, _this_process()))
            _own[self._key] = os.getpid()
        try:
            self._take()
        except BaseException:
            self._forget()
            raise
        threading.Thread(target=self._touch, name="folder lock", daemon=True).start()
        return self

    def _take(self) -> None:
        while True:
            try:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise UserError(
                    f"cannot write {self.path} ({error.strerror or error}); check the permissions of the folder"
                ) from error
            free, sure = _kernel_lock(self._descriptor)
            holder = _read(self._descriptor)
            if not free:
                raise UserError(_in_use(self.path.parent, holder))
            try:
                if os.path.samestat(os.fstat(self._descriptor), os.stat(self.path)):
                    break
            except FileNotFoundError:
                pass
            os.close(self._descriptor)  # the previous holder has just removed the file: lock the next one
            self._descriptor = -1
        if holder and not (sure and holder.get("host") == socket.gethostname()) and self._is_touched(holder):
            raise UserError(_in_use(self.path.parent, holder))
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, json.dumps(_this_process()).encode())

    def _is_touched(self, holder: Mapping[str, Any]) -> bool:
        print(f"{self.path} was left by process {holder.get('pid')} on {holder.get('host')}: waiting up to "
              f"{PATIENCE:.0f} s to see whether it still runs", flush=True)  # fmt: skip
        before, deadline = os.stat(self.path).st_mtime_ns, time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(min(1.0, PATIENCE / 10))
            if os.stat(self.path).st_mtime_ns != before:
                return True
        return False

    def _touch(self) -> None:
        while not self._released.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path)

    def release(self) -> None:
        """Release the lock and remove the file. It does nothing in a forked child, since the lock is its parent's."""
        if _own.get(self._key) != os.getpid():
            return
        self._released.set()
        if fcntl is None:  # Windows does not remove a file that is open
            self._close()
        with suppress(OSError):
            self.path.unlink()
        self._forget()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _forget(self) -> None:
        self._close()
        with _guard:
            _own.pop(self._key, None)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into `folder`. UserError where one does; the message names it.

    Of the processes of a training only the first writes, so only the first locks.
    """
    if rank() > 0:
        yield
        return
    lock = FolderLock(folder).acquire()
    _held.append(lock)
    try:
        yield
    finally:
        _held.remove(lock)
        lock.release()


def release_locks() -> None:
    """Release what `locked` holds, in a process that is about to end without leaving its contexts."""
    for lock in _held:
        lock.release()


def in_use(folder: Path) -> bool:
    """Whether a process is using `folder`."""
    if not (folder / LOCK).is_file():
        return False
    try:
        FolderLock(folder).acquire().release()
    except UserError:
        return True
    return False


def _kernel_lock(descriptor: int) -> tuple[bool, bool]:
    """Whether we got the lock, and whether the system can tell: some file systems, and Windows, cannot."""
    if fcntl is None:
        return True, False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EAGAIN, EACCES
        return False, True
    except OSError:
        return True, False
    return True, True


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _read(descriptor: int) -> dict[str, Any]:
    """What the holder has written; empty where it has not written yet."""
    try:
        content = json.loads(os.read(descriptor, 4096))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _in_use(folder: Path, holder: Mapping[str, Any]) -> str:
    known = f"process {holder['pid']} on {holder.get('host')}, since {holder.get('since')}" if "pid" in holder else ""
    return (
        f"{folder} is in use by {known or 'another process'}; two processes would overwrite each other's files there. "
        "Wait until it ends, or stop it"
    )
