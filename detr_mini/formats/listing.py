"""What lies below a folder, from one walk: its files by kind, and which image or folder a path speaks of."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from itertools import chain, islice
from mmap import mmap
from pathlib import Path

from detr_mini.formats.path_words import (
    by_tail,
    folder_names,
    folders_above,
    lies_apart,
    parts_of,
    shared_folder,
    spelling,
    split_of,
    stem_of,
    with_longest_tail,
)
from detr_mini.safe_files import read_text

NAMES = 200
"""Names of images that a look reads from a file to find their folder."""
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm",
    ".jpe", ".jfif", ".tga", ".avif", ".ico", ".dib", ".pcx", ".sgi", ".apng", ".mpo",
)  # fmt: skip
"""Files with these names are images of a set; what is in them is asked of Pillow."""
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
    def folders(self) -> Set[str]:
        """What the folders of images are called; see `path_words.folder_names`."""
        return folder_names(self.images)

    @cached_property
    def _files_by_tail(self) -> Mapping[str, list[str]]:
        return by_tail(self.files)

    @cached_property
    def _image_folders_by_tail(self) -> Mapping[str, list[str]]:
        return by_tail([folder for folder in self.images_in if folder])

    @cached_property
    def images_in(self) -> Counter[str]:
        """How many images lie in a folder or in one below it; "" is the root."""
        own = Counter(posixpath.dirname(image) for image in self.images)
        counts: Counter[str] = Counter()
        for folder, count in own.items():
            for place in (folder, *folders_above(folder)):
                counts[place] += count
        return counts

    def ending(self, *suffixes: str) -> list[str]:
        """The files with one of these endings, in any case."""
        return [file for file in self.files if file.lower().endswith(suffixes)]

    def find_files(self, text: str) -> list[str]:
        """The files that a path from anywhere may mean: they share the longest tail, and are in no other split."""
        said = split_of(posixpath.dirname("/".join(parts_of(text))))
        found = with_longest_tail(text, self._files_by_tail)
        return [file for file in found if said is None or split_of(posixpath.dirname(file)) in (said, None)]

    def find_file(self, text: str) -> str | None:
        """The first of `find_files`, nearest to the root."""
        return next(iter(self.find_files(text)), None)

    def find_image_folder(self, text: str) -> str | None:
        """The folder of images that a path from anywhere means: the one that shares the longest tail with it."""
        return next(iter(with_longest_tail(text, self._image_folders_by_tail)), None)

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
            below.update({place for folder in folders for place in (folder, *folders_above(folder))})
        if not below:
            return "", 0
        most, home = max(below.values()), shared_folder(labels)
        candidates = [f for f, n in direct.items() if n == most] or [f for f, n in below.items() if n == most]
        by_depth = 1 if most in direct.values() else -1

        def worth(folder: str) -> tuple[bool, bool, bool, int, int, str]:
            agrees = split_of(folder) == split
            near = len(posixpath.commonpath([folder, home])) if folder and home else 0
            return folder != home, is_mask(folder), not agrees, -near, by_depth * len(parts_of(folder)), folder

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
            for place in (folder, *folders_above(folder)):
                self._by_head[f"{place}/{stem}"].append(path)

    @cached_property
    def known(self) -> set[str]:
        """The names without ending, with their folders and alone."""
        return {name for path in self.paths for name in (posixpath.splitext(path)[0], stem_of(path))}

    def find(self, stem: str) -> list[str]:
        """The files of this name: at this very path, else in folders of the same names, in a folder nearby, anywhere.

        `stem`: a path without ending. Capitals and the form of accents count only where both ways of writing are there.
        """
        own = "/".join(parts_of(stem))
        folder, _, name = spelling(own).rpartition("/")
        parts = spelling(own).split("/")
        keys = ["/".join(parts[k:]) for k in range(len(parts) - 1)]
        tails = (self._by_tail.get(key) for key in keys)
        heads = (self._by_head.get(f"{place}/{name}") for place in (folder, *folders_above(folder)))
        found = next((paths for paths in chain(tails, heads) if paths), [])
        if len(found) > 1:
            found = [path for path in found if spelling(posixpath.splitext(path)[0]) == spelling(own)] or found
            found = [path for path in found if stem_of(path) == posixpath.basename(own)] or found
        return list(found)


class Pairs:
    """Images and label files, each below a folder of their own: which of them belong together.

    An image and a label file have one name, and each is the nearest to the other. A file in another folder does not
    count where one of the two folders is on both sides: then the file that belongs there is missing.
    """

    def __init__(self, images: Stems, labels: Stems) -> None:
        self.images, self.labels = images, labels
        names = set.intersection(*({spelling(stem_of(path)) for path in stems.paths} for stems in (images, labels)))
        self._image_folders, self._label_folders = (
            folder_names(path for path in stems.paths if spelling(stem_of(path)) in names) for stems in (images, labels)
        )

    def labels_of(self, image: str) -> list[str]:
        """The label files of one of the images."""
        return self._partners(image, self.images, self.labels)

    def images_of(self, label: str) -> list[str]:
        """The images of one of the label files."""
        return self._partners(label, self.labels, self.images)

    def named(self, stem: str) -> tuple[list[str], list[str]]:
        """The images and the label files that a path without ending in a list may mean."""
        images = [path for path in self.images.find(stem) if not lies_apart(stem, path, self._image_folders)]
        return images, [path for path in self.labels.find(stem) if not lies_apart(stem, path, self._label_folders)]

    def are_apart(self, image: str, label: str) -> bool:
        """Whether one of the two folders is on both sides, so that the files cannot belong together."""
        return lies_apart(image, label, self._label_folders) or lies_apart(label, image, self._image_folders)

    def _partners(self, path: str, own: Stems, among: Stems) -> list[str]:
        def belongs(other: str) -> bool:
            image, label = (path, other) if own is self.images else (other, path)
            return not self.are_apart(image, label) and path in own.find(posixpath.splitext(other)[0])

        return [other for other in among.find(posixpath.splitext(path)[0]) if belongs(other)]


def is_mask(folder: str) -> bool:
    """Whether a path leads through one of `MASKS`."""
    return any(part.lower() in MASKS for part in folder.split("/"))


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


def names_below(found: Listing, names: Sequence[str], listed: Iterable[str]) -> dict[str, str]:
    """Where images with paths of another machine lie: of each name the one file that shares most of its tail.

    `listed`: all names of the annotation file. Left out are names of which no file, or more than one, has the longest
    tail, and those whose file is listed itself, belongs to two of them, or is not in the folder that the name says
    while a folder is called so: such an image is missing, and the file is another one.
    """
    wanted = set(names)
    taken = {spelling("/".join(parts_of(name))) for name in listed if name not in wanted}
    moved = {
        name: files[0]
        for name in wanted
        if len(files := found.find_files(name)) == 1
        and spelling(files[0]) not in taken
        and not lies_apart("/".join(parts_of(name)), files[0], found.folders)
    }
    claims = Counter(moved.values())
    return {name: moved[name] for name in names if name in moved and claims[moved[name]] == 1}


def moved_notice(moved: Mapping[str, str]) -> str:
    """A sentence about what `names_below` has found."""
    old, new = next(iter(moved.items()))
    return f"{len(moved)} images were found by the end of their paths, for example {old} at {new}"
