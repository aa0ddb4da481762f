"""What a path says as text: its names, the split that it speaks of, and which paths share a tail with it."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def spelling(text: str) -> str:
    """A name in small letters, its accents composed: what names of one file have in common on all systems."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def by_tail(paths: Iterable[str]) -> dict[str, list[str]]:
    """Paths by each of their tails: c, b/c and a/b/c."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths, key=lambda path: (path.count("/"), path)):
        parts = spelling(path).split("/")
        for k in range(len(parts)):
            found["/".join(parts[k:])].append(path)
    return dict(found)


def with_longest_tail(text: str, tails: Mapping[str, Sequence[str]]) -> list[str]:
    """The paths that share the longest tail with a path from anywhere, those nearest to the root first.

    `tails`: what `by_tail` made of the paths.
    """
    parts = parts_of(text)
    for k in range(len(parts)):
        tail = "/".join(parts[k:])
        if found := tails.get(spelling(tail)):
            exact = [path for path in found if path.endswith(tail)] if len(found) > 1 else []
            return exact or list(found)
    return []


def folders_above(folder: str) -> Iterator[str]:
    """The folders that hold a folder, up to the root ("")."""
    while folder:
        folder = posixpath.dirname(folder)
        yield folder


def folder_names(paths: Iterable[str]) -> set[str]:
    """What the folders of these files are called, and the folders above them."""
    return {part for folder in {posixpath.dirname(path) for path in paths} for part in _folders(f"{folder}/")}


def lies_apart(path: str, other: str, known: Set[str]) -> bool:
    """Whether a path leads through a folder that is called like one of the `known`, and `other` through none such.

    The file that belongs to cam1/5.jpg is in a folder cam1 where there is one. If it is not there, it is missing:
    cam2/5.txt is another image's.
    """
    return bool((_folders(path) & known) - _folders(other))


def _folders(path: str) -> set[str]:
    return set(spelling(posixpath.dirname(path)).split("/")) - {""}


def stem_of(path: str) -> str:
    """The name of a file without its last ending."""
    return posixpath.splitext(posixpath.basename(path))[0]


def shared_folder(paths: Sequence[str]) -> str:
    """The deepest folder that holds all these files."""
    return posixpath.commonpath(list({posixpath.dirname(path) for path in paths})) if paths else ""


def split_of_name(name: str) -> str | None:
    """The split that a name speaks of: instances_train2017 is train, valid is val, TestImages is test."""
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
    if words & set(SPLIT_WORDS["test"]):  # test-dev
        words.discard("dev")
    return next((split for split, known in SPLIT_WORDS.items() if words & set(known)), None)


def split_of(path: str) -> str | None:
    """The split that a path speaks of, by its deepest part that speaks of one."""
    return next((split for part in reversed(path.split("/")) if (split := split_of_name(part))), None)


def parts_of(text: str) -> list[str]:
    """The names in a path of any system: / or \\, without drive, scheme, "." and ".."."""
    text = re.sub(r"^(?:[A-Za-z][\w+.-]*://|[A-Za-z]:)", "", text.strip().replace("\\", "/"))
    return [part for part in text.split("/") if part not in ("", ".", "..")]


def split_of_file(file: str) -> str | None:
    """The split that an annotation file is of, by its name or else its folder."""
    return split_of_name(stem_of(file)) or split_of(posixpath.dirname(file))
