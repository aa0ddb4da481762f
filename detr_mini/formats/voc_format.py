"""Pascal VOC datasets: recognised by their XML files, whatever the folders are called; written."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from detr_mini.formats.format import Format
from detr_mini.formats.layout import Layout, by_split
from detr_mini.formats.listing import Listing, is_image_name, is_mask, read_lines, read_start
from detr_mini.formats.path_words import (
    SPLIT_WORDS,
    parts_of,
    shared_folder,
    spelling,
    split_of,
    split_of_name,
    stem_of,
)
from detr_mini.formats.tree import Tree, with_one_list
from detr_mini.formats.voc import CATEGORIES, read_voc, voc_xml
from detr_mini.formats.writing import (
    left_out,
    one_of_each_file,
    owned_by_file,
    place_images,
    unlabelled,
    written_names,
)
from detr_mini.safe_files import MOST_LABELS, read_bytes

PEEKED = 5
"""Files of a folder that are opened to learn what the folder holds."""
OTHER_TASKS = {"Action", "Layout", "Segmentation"}
"""Folders of VOC's lists for tasks that use some of the images only; those for detection are in Main."""


def look_voc(found: Listing) -> Layout | None:
    """XML files with the root <annotation>; splits by the lists of ImageSets, else by folder."""
    xmls = _voc_files(found)
    if not xmls:
        return None
    lists, notes = _lists(found, xmls)
    groups = dict.fromkeys(lists, xmls) or by_split(xmls)
    splits: dict[str, dict[str, Any]] = {}
    for name, own in groups.items():
        folder, split = shared_folder(own), None if lists else name
        images, count = found.images_of(own, split)
        stated = _stated_folder(found, own, images if count else None, split)
        if stated is not None:
            images = stated
        elif not count:
            images = _usual_folder(found, folder)
        splits[name] = {"images": images or ".", "annotations": folder or "."}
        if name in lists:
            splits[name]["list"] = lists[name]
        named = f" that {lists[name]} lists" if name in lists else ""
        which = "the" if named else f"{len(own):,}"
        notes.append(f"{name}: {which} XML files in {folder or 'the root'}{named}, images in {images or 'the root'}")
        same = {posixpath.dirname(image) for image in found.stems.find(posixpath.splitext(own[0])[0])}
        if count and stated is not None:
            same.add(images)
        if len(same) > 1 and not all(place == images or place.startswith(f"{images}/") for place in same):
            notes.append(f"{name}: images of the same names are in {', '.join(sorted(same - {images}))}, too; if those "
                         f"are meant, set data.{name}={{images: FOLDER, annotations: {folder or '.'}}}")  # fmt: skip
    if groups and not lists and (left := len(xmls) - sum(map(len, groups.values()))):
        notes.append(f"{left:,} XML files lie in folders of no split and are not used")
    return Layout("voc", splits, ("class names come from the XML files", *notes), len(xmls))


def _voc_files(found: Listing) -> list[str]:
    """The XML files of those folders whose first files are VOC's; a broken file does not decide."""
    folders: dict[str, list[str]] = {}
    for file in found.ending(".xml"):
        folders.setdefault(posixpath.dirname(file), []).append(file)
    return [file for files in folders.values() if _is_voc(found, files) for file in files]


def _is_voc(found: Listing, files: Sequence[str]) -> bool:
    return any(re.search(rb"<annotation[\s>]", read_start(found.root / file)) for file in files[:PEEKED])


def _lists(found: Listing, xmls: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Of each split the text file that names its images; none, and why, where XML files that no list names are left and
    train has no list."""
    stems = {stem_of(xml) for xml in xmls}
    notes: list[str] = []
    ranked: dict[str, list[tuple[bool, bool, bool, bool, str]]] = {}
    for file in found.ending(".txt"):
        name = stem_of(file).lower()
        split = "train" if name in ("trainval", "default") else split_of_name(stem_of(file))
        if split is None:
            continue
        lines = read_lines(found.root / file)[:200]
        named = [_listed_stem(line, stems) in stems for line in lines]
        is_other = not OTHER_TASKS.isdisjoint(file.split("/"))
        if not lines and "ImageSets" in file.split("/") and name in SPLIT_WORDS[split]:
            if split == "test":
                notes.append(f"test: {file} is empty; the split is left out")
            else:
                ranked.setdefault(split, []).append((is_other, False, False, False, file))  # its reader refuses it
        if lines and sum(named) >= len(named) / 2:
            of_one_class = any(re.search(r"\s-?[01]$", line) and not {line, stem_of(line)} & stems for line in lines)
            exact = name in SPLIT_WORDS[split]
            ranked.setdefault(split, []).append((is_other, of_one_class, not exact, name == "default", file))
    lists = {name: min(ranked[name])[-1] for name in SPLIT_WORDS if name in ranked}
    if lists and "train" not in lists and not _list_all(found, lists.values(), stems):
        return {}, [f"{', '.join(lists.values())}: without a list for train no list is used"]
    return lists, notes


def _list_all(found: Listing, lists: Iterable[str], stems: set[str]) -> bool:
    """Whether these lists name every XML file: then nothing is left that could be train."""
    lines = {line for file in lists for line in read_lines(found.root / file)}
    return stems <= {_listed_stem(line, stems) for line in lines}


def _listed_stem(line: str, stems: set[str]) -> str:
    """The one of `stems` that a line of a list names, else the line.

    A line is a name or a path, perhaps with an ending, and perhaps with a flag or another path behind it. All of these
    may have blanks in them.
    """
    line = line.replace("\\", "/")
    plain = line.rpartition(" ")[0].strip()
    paths = [stem_of(line), stem_of(plain), stem_of(line.split()[0])] if is_path(line) or is_path(plain) else []
    return next((stem for stem in (line, *paths[:1], plain, *paths[1:]) if stem in stems), line)


def is_path(line: str) -> bool:
    """Whether a line of a list is the path of a file, with folders or an ending."""
    return "/" in line or "\\" in line or bool(re.search(r"\.\w{2,5}$", line))


def _said_names(found: Listing, xmls: Sequence[str]) -> dict[str, str]:
    """The image that each of the first XML files names."""
    said: dict[str, str] = {}
    for xml in xmls[:PEEKED]:
        try:
            text = ET.fromstring(read_bytes(found.root / xml, MOST_LABELS)).findtext("filename") or ""
        except (ET.ParseError, OSError, ValueError, LookupError, RecursionError):
            continue
        said[xml] = "/".join(parts_of(text))
    return {xml: name for xml, name in said.items() if name}


def _stated_folder(found: Listing, xmls: Sequence[str], matched: str | None, split: str | None) -> str | None:
    """The folder of the images that the XML files name; None where `matched` is the better one.

    `matched`: the folder of the images that are called like the XML files, if there is one. It holds masks, and no
    images, where the XML files name images that have another ending there.
    """
    said = _said_names(found, xmls)
    if matched is None:
        stated = _folder_of(found, said.values(), split)
        return _folder_of(found, said.values(), None) if stated is None else stated
    own = [name for xml, name in said.items() if spelling(stem_of(name)) == spelling(stem_of(xml))]
    inside = f"{matched}/" if matched else ""
    there = {spelling(posixpath.basename(image)) for image in found.images if image.startswith(inside)}
    if not there.isdisjoint(spelling(posixpath.basename(name)) for name in own):
        return None
    stated = _folder_of(found, own, split)
    return None if stated is None or (is_mask(stated) and not is_mask(matched)) else stated


def _folder_of(found: Listing, names: Iterable[str], split: str | None) -> str | None:
    """The folder of the images that these paths mean, without those of another split than `split`."""
    images: list[str] = []
    for name in names:
        same = [file for file in found.find_files(name) if is_image_name(posixpath.basename(file))]
        images += [file for file in same if split is None or split_of(posixpath.dirname(file)) in (split, None)][:1]
    return shared_folder(images) if images else None


def _usual_folder(found: Listing, folder: str) -> str:
    """Where the images should be, when none is there."""
    beside = posixpath.dirname(folder)
    places = [posixpath.join(beside, name) for name in ("JPEGImages", "images", "Images")]
    return next((place for place in places if (found.root / place).is_dir()), folder)


def write_voc(folder: Path, trees: Mapping[str, Tree], images: str) -> list[str]:
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (folder / "Annotations").mkdir()
    taken: dict[str, int] = {}
    trees = with_one_list(trees)
    categories = {c["id"]: c["name"] for tree in trees.values() for c in tree.content["categories"]}
    lines = [f"{number} {name}\n" for number, name in sorted(categories.items())]
    (folder / CATEGORIES).write_text("".join(lines), encoding="utf-8")
    for name, tree in trees.items():
        names = {c["id"]: c["name"] for c in tree.content["categories"]}
        owned = owned_by_file(tree)
        files = written_names(tree, "voc", taken)
        bare = unlabelled(tree)
        for image in one_of_each_file(tree):
            file = files[image["file_name"]]
            if image["file_name"] in bare and not owned[image["file_name"]]:
                continue
            text = voc_xml({**image, "file_name": file}, owned[image["file_name"]], names)
            (folder / "Annotations" / f"{Path(file).stem}.xml").write_text(text, encoding="utf-8")
        (lists / f"{name}.txt").write_text("".join(f"{Path(file).stem}\n" for file in files.values()), encoding="utf-8")
        place_images(tree, {old: folder / "JPEGImages" / new for old, new in files.items()}, images)
    return left_out(trees, {"segmentation": "outlines"})


VOC = Format(
    "voc",
    look_voc,
    ("images", "annotations", "list"),
    1,
    read_voc,
    ("categories", "first_pixel", "difficult"),
    write_voc,
    "Pascal VOC (XML)",
)
