"""A split that was read and checked once, kept as a file of arrays that all processes of a machine map.

Parsing a large COCO file takes many times the memory of what training needs of it, and checking its images opens each
of them. Therefore the first process that needs the split reads it and writes this file; the others, their workers and
later starts map it, and share its pages. A file counts only while its source has the size and time that it had, while
the folders of the images have theirs (they change when a file is added, renamed or removed), and while its checksum
fits.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from detr_mini.categories import Categories
from detr_mini.config.run_folder import rank, sync
from detr_mini.formats.load_report import SplitReport
from detr_mini.formats.split import CocoSet, ImageRecords
from detr_mini.safe_files import reason, user_cache

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

AUTO = "auto"
SMALLEST = 1_000_000
"""Bytes of an annotation file up to which it is simply read at each start."""
VERSION = 2
"""Of these files; to be raised whenever a reader gives other arrays or another report for the same annotations."""
YOUNG = 2.0
"""Seconds after a change in which another one might leave the same time: what is so new is not kept yet."""
UNUSED = 30 * 86_400.0
"""Seconds after which an earlier state of a source is removed."""
Marks = dict[str, tuple[int, int] | None]
"""Size and time of change in nanoseconds of files and folders (a folder's size counts as 0); None: it is not there."""
_complained: set[Path] = set()


def kept(
    cache: str | Path | None,
    annotations: Path,
    images: Path,
    settings: Mapping[str, Any],
    read: Callable[[], CocoSet],
) -> CocoSet:
    """What `read()` gives for the file `annotations` of the images below `images`, from the cache where it is there.

    `cache`: the folder of the cache, "auto" (`folder_of`), or None for no cache. `settings`: all that changes what is
    read, as plain values. One process of a machine reads, the others wait for it. Where nothing can be written, there
    is a warning, and each process reads by itself.
    """
    folder = folder_of(cache)
    if folder is None or not _is_large(annotations):
        return read()
    key = {"source": os.path.abspath(annotations), "named": str(annotations), "images": str(images), **settings}
    base = folder / f"{annotations.stem}-{_digest([VERSION, key])}"
    # each state has a file of its own: machines that share the folder, each with a copy of the data, never replace
    # what another one maps
    path = base.with_name(f"{base.name}-{_digest([_mark(annotations), _mark(images)])}.safetensors")
    if (found := _load(path, annotations, images)) is not None:
        return found
    with _alone(base.with_name(f"{base.name}.lock")) as error:
        if error is None and (found := _load(path, annotations, images)) is not None:
            return found
        started, source = time.time(), _mark(annotations)
        coco = read()
        marks = _marks(coco, images)
        if error is None and _mark(annotations) == source and not _is_young([source, *marks.values()], started):
            error = _store(path, coco, source, marks)
            _forget(base)
    if error is not None:
        _complain(folder, error)
    return _load(path, annotations, images) or coco


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


def _forget(base: Path) -> None:
    """Remove earlier states that nobody has used for long."""
    for file in base.parent.glob(f"{glob.escape(base.name)}-*.safetensors"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > UNUSED:
                file.unlink()


def folder_of(cache: str | Path | None) -> Path | None:
    """The folder that a setting means; "auto" is in the user's own cache folder."""
    if cache is None or cache == AUTO:
        return None if cache is None else user_cache("annotations")
    try:
        return Path(cache).expanduser()
    except RuntimeError:  # this user has no home
        return None


def _is_large(path: Path) -> bool:
    try:
        return path.stat().st_size > SMALLEST
    except OSError:
        return False


@contextmanager
def _alone(lock: Path) -> Iterator[OSError | None]:
    """Wait until no other process of this machine is here with this lock; the kernel frees what a dead one held.

    Gives the error, and does not wait, where nothing can be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("wb")
    except OSError as error:
        yield error
        return
    with file:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        yield None


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return 0 if path.is_dir() else found.st_size, found.st_mtime_ns


def _marks(coco: CocoSet, images: Path) -> Marks:
    """Of the folders of all images, and of the files that were left out."""
    used = {record.file_name for record in coco.records}
    names = used | set(coco.report.missing)
    places = {name.rpartition("/")[0] for name in names} | {name for name in coco.report.by_image if name not in used}
    return {place: _mark(images / place) for place in sorted(places | {""})}


def _is_young(marks: list[tuple[int, int] | None], started: float) -> bool:
    times = [mark[1] / 1e9 for mark in marks if mark is not None]
    return any(started - YOUNG <= changed <= time.time() + YOUNG for changed in times)


def _store(path: Path, coco: CocoSet, source: tuple[int, int] | None, marks: Marks) -> OSError | None:
    """Write the file whole or not at all, with the rights of any other file of this user. The error if it fails."""
    about = {
        "source": source,
        "marks": marks,
        "categories": coco.categories.to_dict(),
        "report": asdict(coco.report),
    }
    records = coco.records
    tensors = {
        "ids": records.ids, "sizes": records.sizes, "names": records.names, "ends": records.ends, "first": coco.first,
        "boxes_xywh": coco.boxes_xywh, "labels": coco.labels, "is_crowd": coco.is_crowd, "area": coco.area,
        "about": torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8),
    }  # fmt: skip
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        rights = temporary.stat().st_mode
        save_file(tensors, temporary, {"checksum": str(_checksum(tensors))})
        temporary.chmod(rights)  # it was written for its owner alone
        sync(temporary)
        os.replace(temporary, path)
    except SafetensorError as error:
        return OSError(str(error))
    except OSError as error:
        return error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return None


def _load(path: Path, annotations: Path, images: Path) -> CocoSet | None:
    """The split in a file of the cache, its arrays mapped; None where the file is damaged, foreign or out of date."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
            if (file.metadata() or {}).get("checksum") != str(_checksum(tensors)):
                return None
        about = json.loads(tensors.pop("about").numpy().tobytes())
        source, marks = about["source"], about["marks"]
        if _as_list(_mark(annotations)) != source:
            return None
        if any(_as_list(_mark(images / place)) != mark for place, mark in marks.items()):
            return None
        with suppress(OSError):
            os.utime(path)  # it was used
        records = ImageRecords(images, **{name: tensors.pop(name) for name in ("ids", "sizes", "names", "ends")})
        categories, report = Categories.from_dict(about["categories"]), SplitReport(**about["report"])
        return CocoSet(records, categories, report, **tensors)
    except (OSError, SafetensorError, ValueError, LookupError, TypeError):
        return None


def _as_list(mark: tuple[int, int] | None) -> list[int] | None:
    return None if mark is None else list(mark)


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """Of names, kinds, shapes and contents."""
    found = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def _complain(folder: Path, error: OSError) -> None:
    """Say once, and in one process of a training, that nothing can be kept."""
    if folder not in _complained and rank() == 0:
        warnings.warn(
            f"annotations cannot be kept in {folder} ({reason(error)}), and are read again at each start; set "
            "data.annotation_cache to a folder that can be written, or to null",
            stacklevel=2,
        )
    _complained.add(folder)
