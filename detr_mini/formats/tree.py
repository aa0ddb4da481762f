"""A VOC or YOLO tree in the form of a COCO file: what the two readers share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Context
from pathlib import Path
from typing import Any

from detr_mini.formats.faults import Fault

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm",
    ".jpe", ".jfif", ".tga", ".avif", ".ico", ".dib", ".pcx", ".sgi", ".apng", ".mpo",
)  # fmt: skip
"""Files with these names are images of a set; what is in them is asked of Pillow."""
EXACT = Context(prec=80)
"""Decimal numbers, so that text to pixels and back loses nothing."""
_LONGEST_ID = 15


@dataclass(frozen=True)
class Tree:
    """One split of a tree."""

    content: dict[str, Any]
    """As a COCO file would have it; each annotation says `where` it stands."""
    folder: Path
    """The file names of `content` are below it."""
    path: Path
    """What an error names."""
    sizes: dict[int, tuple[tuple[int, int], bool]] = field(default_factory=dict)
    """What `image_size` gives, by image id, where it was asked already."""
    faults: list[Fault] = field(default_factory=list)
    """What could not be taken over into `content`."""
    notices: list[str] = field(default_factory=list)


def with_one_list(trees: Mapping[str, Tree]) -> dict[str, Tree]:
    """The splits with one id for each name of a category, as training joins them: by name.

    The first split that has a name decides its id; one that another name has already becomes a free one.
    """
    ids: dict[str, int] = {}
    highest = max((c["id"] for tree in trees.values() for c in tree.content["categories"]), default=0)
    for tree in trees.values():
        for category in tree.content["categories"]:
            if category["name"] not in ids:
                taken = category["id"] in ids.values()
                highest += taken
                ids[category["name"]] = highest if taken else category["id"]
    return {name: _renumbered(tree, ids) for name, tree in trees.items()}


def _renumbered(tree: Tree, ids: Mapping[str, int]) -> Tree:
    categories = tree.content["categories"]
    new = {c["id"]: ids[c["name"]] for c in categories}
    if all(old == own for old, own in new.items()):
        return tree
    content = {
        **tree.content,
        "categories": [{**c, "id": new[c["id"]]} for c in categories],
        "annotations": [{**a, "category_id": new[a["category_id"]]} for a in tree.content["annotations"]],
    }
    return replace(tree, content=content)


def image_ids(names: Sequence[str]) -> list[int]:
    """The id of each file name: its stem where all stems are different whole numbers, else its place, from 1."""
    stems = [Path(name).stem for name in names]
    if all(stem.isdecimal() and stem.isascii() and len(stem) <= _LONGEST_ID for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(names) + 1))


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, by name. Hidden files and folders are left out.

    A link to another folder is followed once, never one that leads back to `folder`, into it or above it.
    """
    found: list[Path] = []
    top = os.path.realpath(folder)
    seen = {top}
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and _is_new(place, name, top, seen)]
        found += [Path(place) / name for name in files if is_image_name(name)]
    return sorted(found)


def _is_new(place: str, name: str, top: str, seen: set[str]) -> bool:
    """Whether a folder was not walked yet; links that lead back are none."""
    path = os.path.join(place, name)
    real = os.path.realpath(path)
    back = os.path.islink(path) and (os.path.join(real, "").startswith(os.path.join(top, ""))
                                     or os.path.join(top, "").startswith(os.path.join(real, "")))  # fmt: skip
    is_new = real not in seen and not back
    seen.add(real)
    return is_new


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def first_of(candidates: Iterable[Path]) -> Path | None:
    """The first that is there."""
    return next((path for path in candidates if _exists(path)), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no disk can hold
        return False
