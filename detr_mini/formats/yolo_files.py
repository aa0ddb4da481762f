"""Which label file belongs to which image of a YOLO set, wherever the labels lie."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

from detr_mini.errors import DataError
from detr_mini.formats.faults import Fault, Fix, Kind
from detr_mini.formats.listing import Listing, Pairs, Stems, is_image_name
from detr_mini.formats.path_words import spelling
from detr_mini.formats.yolo_names import NAME_LISTS, lines_of
from detr_mini.safe_files import files_in, names_in


def found_labels(
    root: Path, files: Sequence[Path], images: str | Sequence[str], labels: str | None
) -> tuple[list[list[Path]], set[Path]]:
    """The label files of each image, the one that counts first, and the folders in which labels were looked for."""
    entries = [images] if isinstance(images, str) else list(images)
    labels_in, places, found = _Labels(), set[Path](), list[list[Path]]()
    for path in files:
        candidates = label_files(path, root, labels, _base_of(path, root, entries))
        places.update(candidate.parent for candidate in candidates)
        found.append([there for candidate in candidates if (there := labels_in.find(candidate))])
    if labels is not None and not all(found):
        one_folder = root / entries[0] if len(entries) == 1 and (root / entries[0]).is_dir() else root
        names = [Path(os.path.relpath(path, one_folder)).as_posix() for path in files]
        pairs = Pairs(Stems(names), Stems(Listing(root / labels).ending(".txt")))
        for path, name, own in zip(files, names, found, strict=True):
            if not own:
                own += [root / labels / file for file in _elsewhere(path, name, pairs, root, root / labels)]
    return found, places


def label_files(image: Path, root: Path, labels: str | None, base: Path) -> list[Path]:
    """Where the labels of an image may lie, most likely first."""
    candidates = []
    if labels is not None:
        below = image.relative_to(base) if image.is_relative_to(base) else Path(image.name)
        candidates.append((root / labels / below).with_suffix(".txt"))
    candidates += [_swapped(image.parent, "images", "labels") / f"{image.stem}.txt", image.with_suffix(".txt")]
    return list(dict.fromkeys(candidates))


def _base_of(path: Path, root: Path, entries: Sequence[str]) -> Path:
    """The folder of the split that an image lies in."""
    folders = [root / entry for entry in entries]
    return next((folder for folder in folders if folder.is_dir() and path.is_relative_to(folder)), path.parent)


def _swapped(path: Path, old: str, new: str) -> Path:
    """`path` with the last folder called `old` called `new`."""
    parts = list(path.parts)
    places = [i for i, part in enumerate(parts) if part == old]
    if places:
        parts[places[-1]] = new
    return Path(*parts)


class _Labels:
    """Label files by their names, whatever the capitals of their endings and the form of their accents."""

    def __init__(self) -> None:
        self.folders: dict[Path, set[str]] = {}

    def find(self, path: Path) -> Path | None:
        folder = path.parent
        if folder not in self.folders:
            try:
                self.folders[folder] = set(names_in(folder))
            except (DataError, ValueError):
                self.folders[folder] = set()
        known = self.folders[folder]
        if path.name in known:
            return path
        stem = path.name[: -len(".txt")]
        forms = (stem, unicodedata.normalize("NFC", stem), unicodedata.normalize("NFD", stem))
        names = (f"{form}{ending}" for form in forms for ending in (".txt", ".TXT", ".Txt"))
        return next((folder / name for name in names if name in known), None)


def _elsewhere(path: Path, name: str, pairs: Pairs, root: Path, labels: Path) -> list[str]:
    """The label files of an image that lie in folders of other names; DataError for one of several images."""
    found = pairs.labels_of(name)
    if len(found) > 1:
        whole = Path(os.path.relpath(path.with_suffix(""), root)).as_posix()
        found = [file for file in pairs.labels.find(whole) if file in found] or found
    owners = pairs.images_of(found[0]) if found else []
    if len({posixpath.dirname(owner) for owner in owners}) > 1:
        raise DataError(f"{found[0]} in {labels} may belong to {owners[0]} or to {owners[1]}; give each file its own "
                        "name, or put the label files in folders like those of their images")  # fmt: skip
    return found


def unused_labels(root: Path, images: set[Path], places: set[Path], used: set[Path]) -> list[Fault]:
    """The label files in `places` that belong to no image, of this split or another one."""
    faults = []
    for folder in sorted(place for place in places if place.is_dir()):
        stems: set[str] | None = None
        for path in files_in(folder, ".txt"):
            if path in used or path.name in NAME_LISTS or not looks_like_labels(path):
                continue
            if stems is None:
                same = {place for place in images if spelling(place.name) == spelling(folder.name)}
                around = {folder, _swapped(folder, "labels", "images"), *(same or images)}
                images_there = (
                    f for place in around if place.is_dir() for f in place.iterdir() if is_image_name(f.name)
                )
                stems = {unicodedata.normalize("NFC", f.stem) for f in images_there}
            if unicodedata.normalize("NFC", path.stem) not in stems:
                name = Path(os.path.relpath(path, root)).as_posix()
                faults.append(Fault(Kind.NO_IMAGE_FOR_LABELS, f"{name} belongs to no image", name, Fix.LEFT_OUT))
    return faults


def looks_like_labels(path: Path) -> bool:
    try:
        lines = [line.split() for line in lines_of(path)[:5] if line.strip()]
    except DataError:
        return False
    return all(len(words) >= 4 and all(is_number_text(word) for word in words) for words in lines)


def is_number_text(word: str) -> bool:
    try:
        Decimal(word)
    except InvalidOperation:
        return False
    return True
