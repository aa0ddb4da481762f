"""What lies below a folder, from one walk: its files by kind, and which split, image or folder a path speaks of."""

from __future__ import annotations

import json
import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from mmap import mmap
from pathlib import Path
from typing import Any

from detr_mini.safe_files import read_text

NAMES = 200
"""Names of images that a look reads from a file to find their folder."""
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm",
    ".jpe", ".jfif", ".tga", ".avif", ".ico", ".dib", ".pcx", ".sgi", ".apng", ".mpo",
)  # fmt: skip
"""Files with these names are images of a set; what is in them is asked of Pillow."""
SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
MOST = 2000
"""Label files that are looked at to find the folder of their images, evenly spread where there are more."""
MASKS = {"mask", "masks", "segmentation", "segmentationclass", "segmentationobject", "depth", "thumbnails", "thumbs"}
"""Folders with these names hold pictures that have the images' names and are not the images."""


class Listing:
    """All files below `root`, as paths relative to it with "/", in order. Hidden files and folders are left out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = sorted(_walk(root))

    @cached_property
    def images(self) -> list[str]:
        """The image files."""
        return [file for file in self.files if is_image_name(posixpath.basename(file))]

    @cached_property
    def stems(self) -> Stems:
        """The image files by their names without ending."""
        return Stems(self.images)

    @cached_property
    def _files_by_tail(self) -> Mapping[str, list[str]]:
        return _by_tail(self.files)

    @cached_property
    def _image_folders_by_tail(self) -> Mapping[str, list[str]]:
        return _by_tail([folder for folder in self.images_in if folder])

    @cached_property
    def images_in(self) -> Counter[str]:
        """How many images lie in a folder or in one below it; "" is the root."""
        own = Counter(posixpath.dirname(image) for image in self.images)
        counts: Counter[str] = Counter()
        for folder, count in own.items():
            for place in (folder, *_above(folder)):
                counts[place] += count
        return counts

    def ending(self, *suffixes: str) -> list[str]:
        """The files with one of these endings, in any case."""
        return [file for file in self.files if file.lower().endswith(suffixes)]

    def find_files(self, text: str) -> list[str]:
        """The files that a path from anywhere may mean: they share the longest tail, and are in no other split."""
        said = split_of(posixpath.dirname("/".join(parts_of(text))))
        found = _with_longest_tail(text, self._files_by_tail)
        return [file for file in found if said is None or split_of(posixpath.dirname(file)) in (said, None)]

    def find_file(self, text: str) -> str | None:
        """The first of `find_files`, nearest to the root."""
        return next(iter(self.find_files(text)), None)

    def find_image_folder(self, text: str) -> str | None:
        """The folder of images that a path from anywhere means: the one that shares the longest tail with it."""
        return next(iter(_with_longest_tail(text, self._image_folders_by_tail)), None)

    def images_of(self, labels: Sequence[str], split: str | None = None) -> tuple[str, int]:
        """The folder that holds the images of these label files, and of how many of the first `MOST` it does.

        Images are matched by name without ending. The deepest folder that has the most wins; of several such one
        beside the labels, then one near them. Images of another split than `split` are not candidates.
        """
        direct: Counter[str] = Counter()
        below: Counter[str] = Counter()
        for label in labels[:: max(1, len(labels) // MOST)]:
            images = self.stems.find(posixpath.splitext(label)[0])
            folders = {f for f in map(posixpath.dirname, images) if split is None or split_of(f) in (split, None)}
            direct.update(folders)
            below.update({place for folder in folders for place in (folder, *_above(folder))})
        if not below:
            return "", 0
        most, home = max(below.values()), shared_folder(labels)
        candidates = [f for f, n in direct.items() if n == most] or [f for f, n in below.items() if n == most]
        by_depth = 1 if most in direct.values() else -1

        def worth(folder: str) -> tuple[bool, bool, bool, int, int, str]:
            agrees = split_of(folder) == split
            near = len(posixpath.commonpath([folder, home])) if folder and home else 0
            return folder != home, _is_mask(folder), not agrees, -near, by_depth * len(parts_of(folder)), folder

        return min(candidates, key=worth), most


def _walk(root: Path) -> Iterator[str]:
    """Regular files, and links to no file. A link to a folder elsewhere is followed once.

    A link that leads back into `root` or above it is not followed. A folder that cannot be opened is skipped.
    """
    top = os.path.realpath(root)
    seen = {top}
    places, links = [(top, "")], list[tuple[str, str]]()
    while places or links:
        if not places:  # real folders come first, so that a link never hides one
            path, prefix = links.pop()
            real = os.path.realpath(path)
            inside, outside = os.path.join(real, ""), os.path.join(top, "")
            if real in seen or inside.startswith(outside) or outside.startswith(inside):
                continue
            places.append((real, prefix))
        place, prefix = places.pop()
        seen.add(place)
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            try:
                if entry.is_dir():
                    (links if entry.is_symlink() else places).append((entry.path, f"{prefix}{entry.name}/"))
                elif entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):
                    yield prefix + entry.name
            except OSError:
                continue


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, by name; see `Listing` for links and hidden files."""
    return sorted(folder / file for file in _walk(folder) if is_image_name(posixpath.basename(file)))


class Stems:
    """Files by their names without ending, to find the one that belongs to a file in another folder."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = sorted(paths)
        self._by_tail: dict[str, list[str]] = defaultdict(list)
        self._by_head: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            own = spelling(posixpath.splitext(path)[0])
            folder, _, stem = own.rpartition("/")
            parts = own.split("/")
            for k in range(len(parts) - 1):
                self._by_tail["/".join(parts[k:])].append(path)
            for place in (folder, *_above(folder)):
                self._by_head[f"{place}/{stem}"].append(path)

    @cached_property
    def known(self) -> set[str]:
        """The names without ending, with their folders and alone."""
        return {name for path in self.paths for name in (posixpath.splitext(path)[0], stem_of(path))}

    def find(self, stem: str) -> list[str]:
        """The files of this name: in folders of the same names, else in a folder nearby, else anywhere.

        `stem`: a path without ending. Capitals and the form of accents count only where both ways of writing are there.
        """
        own = "/".join(parts_of(stem))
        folder, _, name = spelling(own).rpartition("/")
        parts = spelling(own).split("/")
        keys = ["/".join(parts[k:]) for k in range(len(parts) - 1)]
        tails = (self._by_tail.get(key) for key in keys)
        heads = (self._by_head.get(f"{place}/{name}") for place in (folder, *_above(folder)))
        found = next((paths for paths in chain(tails, heads) if paths), [])
        exact = [path for path in found if stem_of(path) == posixpath.basename(own)] if len(found) > 1 else []
        return exact or list(found)


def spelling(text: str) -> str:
    """A name in small letters, its accents composed: what names of one file have in common on all systems."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def _by_tail(paths: Iterable[str]) -> dict[str, list[str]]:
    """Paths by each of their tails: c, b/c and a/b/c."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths, key=lambda path: (path.count("/"), path)):
        parts = spelling(path).split("/")
        for k in range(len(parts)):
            found["/".join(parts[k:])].append(path)
    return dict(found)


def _with_longest_tail(text: str, by_tail: Mapping[str, Sequence[str]]) -> list[str]:
    """The paths that share the longest tail with a path from anywhere, those nearest to the root first."""
    parts = parts_of(text)
    for k in range(len(parts)):
        tail = "/".join(parts[k:])
        if found := by_tail.get(spelling(tail)):
            exact = [path for path in found if path.endswith(tail)] if len(found) > 1 else []
            return exact or list(found)
    return []


def _above(folder: str) -> Iterator[str]:
    """The folders that hold a folder, up to the root ("")."""
    while folder:
        folder = posixpath.dirname(folder)
        yield folder


def _is_mask(folder: str) -> bool:
    return any(part.lower() in MASKS for part in folder.split("/"))


def stem_of(path: str) -> str:
    """The name of a file without its last ending."""
    return posixpath.splitext(posixpath.basename(path))[0]


def shared_folder(paths: Sequence[str]) -> str:
    """The deepest folder that holds all these files."""
    return posixpath.commonpath(list({posixpath.dirname(path) for path in paths})) if paths else ""


def split_of_name(name: str) -> str | None:
    """The split that a name speaks of: instances_train2017 is train, valid is val, TestImages is test."""
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
    return next((split for split, known in SPLIT_WORDS.items() if words & set(known)), None)


def split_of(path: str) -> str | None:
    """The split that a path speaks of, by its deepest part that speaks of one."""
    return next((split for part in reversed(path.split("/")) if (split := split_of_name(part))), None)


def parts_of(text: str) -> list[str]:
    """The names in a path of any system: / or \\, without drive, scheme, "." and ".."."""
    text = re.sub(r"^(?:[A-Za-z][\w+.-]*://|[A-Za-z]:)", "", text.strip().replace("\\", "/"))
    return [part for part in text.split("/") if part not in ("", ".", "..")]


@dataclass(frozen=True)
class Layout:
    """What a folder holds, and where its splits are."""

    format: str
    splits: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...] = ()
    """How the folder was read, a sentence each: what is where, what was found elsewhere, what is absent."""
    labelled: int = 0
    """How many annotation files or images with annotations the look has seen; decides between two readings."""


def by_split(paths: Sequence[str]) -> dict[str, list[str]]:
    """Files by the split that their folders speak of. Those of no split are train, unless train is there."""
    found: dict[str | None, list[str]] = defaultdict(list)
    for path in paths:
        found[split_of(posixpath.dirname(path))].append(path)
    rest = found.pop(None, [])
    if rest and "train" not in found:
        found["train"] = rest
    return {name: found[name] for name in SPLIT_WORDS if name in found}


def split_of_file(file: str) -> str | None:
    """The split that an annotation file is of, by its name or else its folder."""
    return split_of_name(stem_of(file)) or split_of(posixpath.dirname(file))


def layout_of_files(
    found: Listing, format: str, files: Mapping[str, Sequence[str]], subsets: Mapping[str, Sequence[str]] | None = None
) -> Layout | None:
    """The layout of a format in which one file holds the boxes of many images.

    `files`: of each annotation file the first images that it names; the first file of a split counts. `subsets`: of
    each file the names of subsets that it assigns its images to.
    """
    splits: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    unnamed = [file for file in files if split_of_file(file) is None]
    has_train = any(split_of_file(file) == "train" for file in files)
    for file, names in files.items():
        own = split_of_file(file) or ("train" if file == unnamed[0] and not has_train else None)
        parts = {part: split_of_name(part) or "train" for part in (subsets or {}).get(file, ())}
        parts = parts if len(set(parts.values())) > 1 else {"": own} if own else {}
        if not parts:
            notes.append(f"{file} is not used: its name says no split")
        for part, name in parts.items():
            if name in splits:
                used = splits[name].get("subset") or splits[name]["annotations"]
                notes.append(f"{part or file} is not used: {used} is {name} already")
                continue
            images = images_folder(found, file, names, None if part else name)
            splits[name] = {"images": images or ".", "annotations": file} | ({"subset": part} if part else {})
            subset = f", subset {part}" if part else ""
            notes.append(f"{name}: {file}{subset}, images in {images or 'the root'}")
    ordered = {name: splits[name] for name in SPLIT_WORDS if name in splits}
    labelled = sum(len(files[split["annotations"]]) for split in ordered.values())
    source = ", ".join(dict.fromkeys(split["annotations"] for split in ordered.values()))
    return Layout(format, ordered, (f"class names come from {source}", *notes), labelled) if ordered else None


def images_folder(found: Listing, file: str, names: Sequence[str], split: str | None) -> str:
    """The folder that the file names of `file` are relative to; "" is the root.

    Where the names are paths of another machine it is the folder that holds the files that share most of their tails.
    """
    bases: Counter[str] = Counter()
    files = []
    for name in names:
        plain = "/".join(parts_of(name))
        file_name = posixpath.basename(plain)
        same = found.find_files(name) or found.stems.find(plain)
        same = [path for path in same if split is None or split_of(posixpath.dirname(path)) in (split, None)]
        whole = (path if path.endswith(file_name) else posixpath.splitext(path)[0] for path in same)
        bases.update(path[: -len(plain)].rstrip("/") for path in whole if f"/{path}".endswith(f"/{plain}"))
        files += same[:1]
    home = posixpath.dirname(file)

    def worth(base: str) -> tuple[int, bool, bool, int, str]:
        return -bases[base], split_of(base) != split, base != home, base.count("/"), base

    best = min(bases, key=worth, default=None)
    if best is not None and bases[best] >= len(files):
        return best
    return shared_folder(files) if files else _usual_folder(found, file, split)


def _usual_folder(found: Listing, file: str, split: str | None) -> str:
    """Where the images should be, when none of those that are named is there."""
    stem = re.sub(r"^instances_", "", stem_of(file))
    words = SPLIT_WORDS.get(split or "", ())
    places = [stem, f"images/{stem}", *(p for w in words for p in (f"images/{w}", f"{w}/images", w)), "images"]
    home = posixpath.dirname(file)
    there = (posixpath.join(base, place) for base in ("", home) for place in places)
    return next((place for place in there if (found.root / place).is_dir()), stem)


def read_start(path: Path, size: int = 4096) -> bytes:
    """The first bytes of a file; none where it cannot be read. UTF-16 loses its zeros, so that ASCII is found in it."""
    try:
        with path.open("rb") as file:  # `Listing` has regular files only: opening one never waits
            return file.read(size).replace(b"\0", b"")
    except OSError:
        return b""


def json_texts(data: bytes | mmap, key: str) -> list[str]:
    """The first texts, `NAMES` at most, that belong to `key` in JSON; broken ones are left out."""
    found = islice(re.finditer(rb'"%s"\s*:\s*("(?:[^"\\]|\\.)*")' % key.encode(), data), NAMES)
    return [text for match in found if (text := _json_text(match[1]))]


def _json_text(raw: bytes) -> str:
    try:
        return str(json.loads(raw))
    except ValueError:
        return ""


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without blanks around them; blank lines are left out, and so is what cannot be read."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError):
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def names_below(found: Listing, names: Sequence[str]) -> dict[str, str]:
    """Where images with paths of another machine lie: of each name the one file that shares most of its tail.

    Names of which no file, or more than one, has the longest tail are left out.
    """
    return {name: files[0] for name in names if len(files := found.find_files(name)) == 1}


def moved_notice(moved: Mapping[str, str]) -> str:
    """A sentence about what `names_below` has found."""
    old, new = next(iter(moved.items()))
    return f"{len(moved)} images were found by the end of their paths, for example {old} at {new}"
