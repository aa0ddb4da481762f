"""The index of a folder of shards: every file of it with its size and checksum."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detr_mini.errors import DataError
from detr_mini.safe_files import name_fault, read_bytes, reason, shown

INDEX = "shards.json"
KIND = "shards of detr_mini"
VERSION = 1
SPLITS = ("train", "val", "test")
_PIECE = 1 << 20
_MOST = 2**28
"""Bytes of an index, at most."""
_START = 64


@dataclass(frozen=True)
class StoredFile:
    """A file of the folder, as it was written."""

    name: str
    """Its path below the folder."""
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitIndex:
    """The files of a split."""

    images: int
    annotations: StoredFile
    """A COCO file."""
    table: StoredFile
    """See `store.COLUMNS`."""
    shards: tuple[StoredFile, ...]

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All of them."""
        return self.annotations, self.table, *self.shards


@dataclass(frozen=True)
class Index:
    """What a folder of shards holds."""

    source: str
    """The dataset that the shards were made of: `data.root` of the command."""
    format: str
    """Its format: a key of `formats.discover.FORMATS`."""
    sources: StoredFile
    """See `formats.licences`: what the images are, and under which licence."""
    splits: Mapping[str, SplitIndex]

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All files that it names."""
        return self.sources, *(file for split in self.splits.values() for file in split.files)

    def text(self) -> str:
        """The content of the file."""
        splits = {name: asdict(split) for name, split in self.splits.items()}
        return json.dumps({"kind": KIND, "version": VERSION, "source": self.source, "format": self.format,
                           "sources": asdict(self.sources), "splits": splits}, indent=1)  # fmt: skip

    def again(self, folder: Path | str) -> str:
        """How to write the folder again."""
        return f"remove {folder}: 'detr-mini data shard data.root={self.source} output={folder}' writes it again"

    def no_files(self, folder: Path | str) -> str:
        """The sentence for a task that needs the images as files."""
        return (f"{folder} holds shards, and this task needs each image as a file of its own; give it the dataset that "
                f"the shards were made of (data.root={self.source})")  # fmt: skip


def read_index(folder: Path) -> Index:
    """The index of a folder. DataError, with the host's name, where there is none or it cannot be used."""
    path = folder / INDEX
    try:
        text = read_bytes(path, _MOST)
    except FileNotFoundError:
        what = "folder" if not folder.is_dir() else f"{INDEX} in"
        raise DataError(f"there is no {what} {folder} on the host {socket.gethostname()}; copy the shards to every "
                        "host, or set data.root to a folder or an address that all of them can read") \
            from None  # fmt: skip
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason(error)}) on the host {socket.gethostname()}; check the path "
                        "and its permissions") from None  # fmt: skip
    return parsed(text, str(path))


def is_index(path: Path) -> bool:
    """Whether a file begins as an index does: other programs may write a file of this name."""
    try:
        with path.open("rb") as file:
            return KIND.encode() in file.read(_START)
    except OSError:
        return False


def parsed(text: bytes, path: str) -> Index:
    """An index from the content of its file. DataError where it has another version or cannot be used."""
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise ValueError("it is not written by 'detr-mini data shard'")
        if content.get("version") != VERSION:
            raise DataError(f"{path} has version {shown(content.get('version'))} of the shards' index, and "
                            f"version {VERSION} can be read; write the shards again with 'detr-mini data shard', or "
                            "use the version of detr-mini that wrote them")  # fmt: skip
        splits = {name: _split(split) for name, split in content["splits"].items()}
        if others := sorted(set(splits) - set(SPLITS)):
            raise ValueError(f"it has the split {shown(others[0])}; splits are {', '.join(SPLITS)}")
        return Index(str(content["source"]), str(content["format"]), _file(content["sources"]), splits)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read ({why}); it may be cut off: write the shards again with 'detr-mini "
                        "data shard', or copy them again") from None  # fmt: skip


def _split(content: Mapping[str, Any]) -> SplitIndex:
    shards = tuple(_file(file) for file in content["shards"])
    return SplitIndex(int(content["images"]), _file(content["annotations"]), _file(content["table"]), shards)


def _file(content: Mapping[str, Any]) -> StoredFile:
    name, size = content["name"], content["bytes"]
    fault = name_fault(name, Path("/shards"), Path("/shards")) if isinstance(name, str) else "is no text"
    if fault:
        raise ValueError(f"the file name {shown(name)} {fault}")
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"the file {name} has {shown(size)} bytes")
    return StoredFile(name, size, str(content["sha256"]))


def sha256(path: Path) -> str:
    """The checksum of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def stored(folder: Path, name: str) -> StoredFile:
    """A file that has been written."""
    return StoredFile(name, (folder / name).stat().st_size, sha256(folder / name))


def fault_of(folder: Path, file: StoredFile, *, content: bool = False) -> str:
    """What is wrong with a file, "" where nothing is. `content`: its checksum is compared, too, not only its size."""
    path = folder / file.name
    try:
        size = path.stat().st_size
        if size != file.bytes:
            return f"{path} has {size:,} bytes instead of {file.bytes:,}: it was cut off or changed"
        if content and sha256(path) != file.sha256:
            return f"{path} has changed since it was written: its checksum is another one"
    except FileNotFoundError:
        return f"there is no {path} on the host {socket.gethostname()}"
    except OSError as error:
        return f"{path} cannot be read ({reason(error)})"
    return ""
