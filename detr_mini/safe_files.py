"""Untrusted files, and the paths in them: reading one never hangs, and no path leads out of its folder."""

from __future__ import annotations

import codecs
import errno
import os
import re
import reprlib
import stat
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detr_mini.errors import DataError

MOST_TEXT = 2**28
"""Bytes of a list of files or names, at most; a YAML file has its own limit."""
MOST_LABELS = 8 * 2**20
"""Bytes of the annotations of one image, at most: tens of thousands of boxes."""
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_LONGEST_NAME = 255
_LONGEST_PATH = 4000
_UNUSUAL = re.compile(r"\.\.|[\\/:\x00-\x1f\x7f]|[^\x00-\x7f]|^[~.]")
"""Short names without any of these are usable as they are."""
_HALF = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")
"""A lone surrogate, apart from U+DC80 to U+DCFF, which stand for bytes of a name that is not UTF-8 (PEP 383)."""
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 80, 80, 40


def user_cache(part: str) -> Path | None:
    """The folder `part` of this package in the user's cache folder; None where the user has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detr-mini" / part
    except RuntimeError:
        return None


def shown(value: Any) -> str:
    """A value from a file, for a message: like `repr`, but short however large or deep the value is."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a whole number of {value.bit_length()} bits"
    return _SHORT.repr(value)


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file.

    Besides the usual OSErrors: OSError for a pipe or a device, which could block for ever, and for a file of more
    than `most` bytes.
    """
    # without O_NONBLOCK, opening a pipe waits for its writer
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is a pipe or a device, not a file", str(path))
        if most is not None and found.st_size > most:
            raise OSError(errno.EFBIG, f"has {found.st_size:,} bytes, the limit is {most:,}", str(path))
        return file.read()


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """The text of a regular file: UTF-8, or as its byte order mark says. UnicodeDecodeError, or as `read_bytes`."""
    content = read_bytes(path, most)
    encoding = next((name for mark, name in _BOMS if content.startswith(mark)), "utf-8")
    return content.decode(encoding)


def reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text, at byte {error.start:,}"
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def is_file(path: Path) -> bool:
    """Whether `path` is a regular file; False for a path that no disk can hold."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted, without hidden ones (Macs add `._a.xml`). DataError if it cannot be read."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be listed ({reason(error)}); check the path and its permissions") \
            from None  # fmt: skip


def has_suffix(name: str, *suffixes: str) -> bool:
    """Whether a name has one of these suffixes, in any case, and is not hidden."""
    return name.lower().endswith(suffixes) and not name.startswith(".")


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """The files in a folder with one of these suffixes (in any case), sorted by name, without hidden ones.

    An empty list where the folder does not exist or cannot be listed.
    """
    try:
        return [folder / name for name in names_in(folder) if has_suffix(name, *suffixes)]
    except DataError:
        return []


def name_fault(name: str, folder: Path, root: Path) -> str:
    """Why a file name from an annotation file cannot be used below `folder`; "" where it can.

    It must not lead out of `root`. Links in the folder are followed, since the owner of the disk made them.
    """
    if len(name) < 200 and not _UNUSUAL.search(name):
        return ""
    if not name.strip():
        return "is empty"
    if _HALF.search(name):
        return "holds a lone surrogate (half of a character)"
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        return "holds a control character"
    plain = name.replace("\\", "/")
    parts = plain.split("/")
    if len(name) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in parts):
        return f"is longer than the {_LONGEST_NAME} bytes that a name on disk can have"
    drive = re.match(r"[A-Za-z]:/", plain)
    if ".." in parts or plain.startswith("/") or drive:
        base, path = os.path.normpath(root), os.path.normpath(folder / plain)
        inside = _is_below(path, base) and _is_below(os.path.realpath(folder / plain), os.path.realpath(base))
        if drive or not inside:
            return f"leads out of the folder {root}"
    return ""


def _is_below(path: str, base: str) -> bool:
    return os.path.abspath(path).startswith(os.path.join(os.path.abspath(base), ""))


def spelled_on_disk(folder: Path, missing: Iterable[str]) -> dict[str, str]:
    """For names that `folder` lacks, the one file that differs in spelling only, where there is exactly one.

    Spellings differ in composed or decomposed accents (Macs store the latter), backslashes (Windows), and the case of
    the suffix.
    """
    listed: dict[str, Mapping[str, Sequence[str]]] = {}
    found: dict[str, str] = {}
    for name in missing:
        place, _, base = name.replace("\\", "/").rpartition("/")
        if place not in listed:
            listed[place] = _by_spelling(folder / place)
        candidates = listed[place].get(_spelling(base), ())
        if len(candidates) == 1:
            found[name] = f"{place}/{candidates[0]}" if place else candidates[0]
    return found


def _by_spelling(folder: Path) -> Mapping[str, Sequence[str]]:
    known: dict[str, list[str]] = {}
    try:
        for name in names_in(folder):
            known.setdefault(_spelling(name), []).append(name)
    except (DataError, ValueError):
        return {}
    return known


def _spelling(name: str) -> str:
    stem, dot, ending = unicodedata.normalize("NFC", name).rpartition(".")
    return f"{stem}{dot}{ending.lower()}"


def safe_name(name: str) -> str:
    """`name` as a relative path that is valid on any disk and stays in its folder, for writing."""
    parts = [
        part for part in re.split(r"[\\/]", name) if part not in ("", ".", "..") and not re.match("[A-Za-z]:$", part)
    ]
    return "/".join(_safe_part(part) for part in parts) or "image"


def _safe_part(part: str) -> str:
    part = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "_", part)
    if len(part.encode()) <= _LONGEST_NAME - 15:  # a writer may add a suffix or a number
        return part
    stem, dot, ending = part.rpartition(".")
    ending = dot + ending if len(ending) < 10 and stem else ""
    return part.encode()[: _LONGEST_NAME - 15 - len(ending.encode())].decode("utf-8", "ignore") + ending
