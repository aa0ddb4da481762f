"""Which pictures a user means, and what each is called in the results."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from PIL import Image

from detr_mini.errors import DataError, UserError
from detr_mini.progress import BAR_FROM, track
from detr_mini.shards.index import INDEX, is_index, read_index


@dataclass(frozen=True)
class Source:
    """A picture and its name in the results: its path below the folder that was asked for."""

    path: Path
    name: str


def find_pictures(sources: str | Sequence[str], written: Sequence[Path] = ()) -> list[Source]:
    """The pictures of files, folders (with all below) and patterns, each once, sorted by name; names are unique.

    `written`: folders that will be written anew; what an earlier run left there is no picture. In folders, files and
    folders whose names begin with a dot are left out. DataError where nothing is found; UserError where the pictures
    themselves lie in `written`.
    """
    wanted = [sources] if isinstance(sources, str) else list(sources)
    closed = {folder.resolve() for folder in written}
    bases: list[Path] = []
    files: dict[Path, None] = {}
    for text in wanted:
        base, found = _one(os.path.expanduser(text))
        if closed & {base.resolve(), *base.resolve().parents}:
            raise UserError(f"the images of {text} are in the output folder; choose another output")
        kept = [path for path in found if not closed.intersection(path.resolve().parents)]
        if not kept:
            if is_index(base / INDEX):
                raise DataError(read_index(base).no_files(base))
            raise DataError(f"there is no picture in {text}; check the path")
        bases.append(base)
        files.update(dict.fromkeys(kept))
    root = Path(os.path.commonpath(bases))
    return sorted((Source(path, path.relative_to(root).as_posix()) for path in files), key=lambda source: source.name)


def without_copies(sources: Sequence[Source], known: Iterable[Path]) -> tuple[list[Source], int]:
    """The sources whose files are not among `known`, by their bytes; and how many are."""
    sizes: dict[int, list[Path]] = {}
    for path in known:
        if path.is_file():
            sizes.setdefault(path.stat().st_size, []).append(path)
    digests: dict[int, set[bytes]] = {}
    new = []
    for source in track(sources, "comparing files", at_least=BAR_FROM):
        size = source.path.stat().st_size if source.path.is_file() else -1
        if size in sizes and size not in digests:
            digests[size] = {_digest(path) for path in sizes[size]}
        if size not in sizes or _digest(source.path) not in digests[size]:
            new.append(source)
    return new, len(sources) - len(new)


def _digest(path: Path) -> bytes:
    return blake2b(path.read_bytes(), digest_size=16).digest()


def is_many(source: str | Path) -> bool:
    """Whether a path is a folder, or a pattern that is no file's name."""
    path = os.path.expanduser(source)
    return os.path.isdir(path) or (glob.has_magic(path) and not os.path.lexists(path))


def _one(text: str) -> tuple[Path, list[Path]]:
    """The folder that names start from, and the files, absolute; links are not followed to their ends."""
    path = Path(os.path.abspath(text))
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        return path, list(_pictures_below(path))
    if glob.has_magic(text):
        plain = list(_before_magic(Path(text).parts))
        base = Path(os.path.abspath(Path(*plain) if plain else "."))
        matches = (Path(os.path.abspath(match)) for match in glob.iglob(text, recursive=True))
        return base, [match for match in matches if match.is_file() and _is_picture(match)]
    raise DataError(f"there is no file or folder {text}; check the path")


def _before_magic(parts: Iterable[str]) -> Iterable[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _pictures_below(folder: Path) -> Iterable[Path]:
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and _is_picture(Path(name)):
                yield Path(place) / name


def _is_picture(path: Path) -> bool:
    known = Image.registered_extensions()
    return known.get(path.suffix.lower()) in Image.OPEN and path.suffix.lower() not in (".pdf", ".eps", ".ps", ".mpg")
