"""Where the splits of a folder are, and where the images are that an annotation file names."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detr_mini.formats.listing import NAMES, Listing, is_mask
from detr_mini.formats.path_words import (
    SPLIT_WORDS,
    parts_of,
    shared_folder,
    split_of,
    split_of_file,
    split_of_name,
    stem_of,
)


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


def by_subset(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The first images of each subset, from pairs of a subset and an image; blank ones are left out."""
    found: dict[str, dict[str, None]] = {}
    for subset, image in pairs:
        if subset and image and len(own := found.setdefault(subset, {})) < NAMES:
            own[image] = None
    return {subset: list(own) for subset, own in found.items()}


def layout_of_files(
    found: Listing,
    format: str,
    files: Mapping[str, Sequence[str]],
    subsets: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
) -> Layout | None:
    """The layout of a format in which one file holds the boxes of many images.

    `files`: of each annotation file the first images that it names; the first file of a split counts. `subsets`: of
    each file the subsets that it assigns its images to, and the first images of each. One that speaks of no split is
    train where no other subset is.
    """
    splits: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    unnamed = [file for file in files if split_of_file(file) is None]
    has_train = any(split_of_file(file) == "train" for file in files)
    for file, names in files.items():
        own = split_of_file(file) or ("train" if file == unnamed[0] and not has_train else None)
        images_in = (subsets or {}).get(file, {})
        known_first = sorted(images_in, key=lambda part: split_of_name(part) is None)
        parts = {part: split_of_name(part) or "train" for part in known_first}
        parts = parts if len(set(parts.values())) > 1 else {"": own} if own else {}
        if not parts:
            notes.append(f"{file} is not used: its name says no split")
        for part, name in parts.items():
            if name in splits:
                used = splits[name].get("subset") or splits[name]["annotations"]
                what = f"subset {part} of {file}" if part else file
                notes.append(f"{what} is not used: {used} is {name} already")
                continue
            wanted = images_in[part] if part else names
            # the folder of a subset may be called like another split if it holds the images of all
            within = name if not part or any(_files_of(found, image, name) for image in wanted) else None
            images = images_folder(found, file, wanted, within)
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
        same = _files_of(found, name, split)
        whole = (path if path.endswith(file_name) else posixpath.splitext(path)[0] for path in same)
        bases.update(path[: -len(plain)].rstrip("/") for path in whole if f"/{path}".endswith(f"/{plain}"))
        files += same[:1]
    home = posixpath.dirname(file)

    def worth(base: str) -> tuple[int, bool, bool, bool, int, str]:
        return -bases[base], split_of(base) != split, base != home, is_mask(base), base.count("/"), base

    best = min(bases, key=worth, default=None)
    if best is not None and bases[best] >= len(files):
        return best
    return shared_folder(files) if files else _usual_folder(found, file, split)


def _files_of(found: Listing, name: str, split: str | None) -> list[str]:
    """The files that an image of an annotation file may be, without those of another split than `split`."""
    same = found.find_files(name) or found.stems.find("/".join(parts_of(name)))
    return [path for path in same if split is None or split_of(posixpath.dirname(path)) in (split, None)]


def _usual_folder(found: Listing, file: str, split: str | None) -> str:
    """Where the images should be, when none of those that are named is there."""
    stem = re.sub(r"^instances_", "", stem_of(file))
    words = SPLIT_WORDS.get(split or "", ())
    places = [stem, f"images/{stem}", *(p for w in words for p in (f"images/{w}", f"{w}/images", w)), "images"]
    home = posixpath.dirname(file)
    there = (posixpath.join(base, place) for base in ("", home) for place in places)
    return next((place for place in there if (found.root / place).is_dir()), stem)
