"""COCO datasets: recognised by the keys in their JSON files, which are searched and not parsed; read and written."""

from __future__ import annotations

import json
import mmap
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from detr_mini.errors import DataError
from detr_mini.formats.category_records import listed as listed_categories
from detr_mini.formats.columns import any_json, read_json
from detr_mini.formats.faults import NOTICES, Fault
from detr_mini.formats.format import Format
from detr_mini.formats.layout import Layout, layout_of_files
from detr_mini.formats.listing import Listing, json_texts
from detr_mini.formats.path_words import split_of, split_of_file, stem_of
from detr_mini.formats.records import in_one_line, respell, unusable_names
from detr_mini.formats.tree import Tree
from detr_mini.formats.writing import place_images, plain_names

NOT_BOXES = ("captions", "stuff", "panoptic")
"""COCO's own files with these prefixes hold no boxes of objects."""
AT_ONCE = 10_000
"""Records that are written in one piece."""


@dataclass(frozen=True)
class Peek:
    """What a JSON file holds, as far as a search for keys tells."""

    keys: frozenset[str]
    file_names: tuple[str, ...] = ()


def peek(path: Path, keys: Sequence[str]) -> Peek:
    """Which of `keys` stand in a JSON file, and the first `file_name`s; a file of a gigabyte takes a second."""
    try:  # mapped: processes that look at once share its pages
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            there = frozenset(key for key in keys if data.find(f'"{key}"'.encode()) >= 0)
            return Peek(there, tuple(json_texts(data, "file_name")))
    except (OSError, ValueError):  # it cannot be read, or is empty
        return Peek(frozenset())


def look_coco(found: Listing) -> Layout | None:
    """JSON files with images, annotations and categories; splits by the names of files and folders."""
    files = [file for file in found.ending(".json") if not posixpath.basename(file).startswith(NOT_BOXES)]
    files.sort(key=lambda f: ("person_keypoints" in f, not stem_of(f).startswith("instances"), f.count("/"), f))
    peeked = {file: peek(found.root / file, ("images", "annotations", "categories", "bbox")) for file in files}
    usable = [file for file in files if _is_coco(found, file, peeked[file])]
    images_only = [file for file in usable if "annotations" not in peeked[file].keys and _is_for_test(file)]
    images_only = [file for file in images_only if not _is_broken(found.root / file)]
    layout = layout_of_files(found, "coco", {f: peeked[f].file_names for f in usable if f not in images_only})
    notes = [f"{split_of(stem_of(f)) or f}: {f} lists images without annotations; it is left out" for f in images_only]
    return replace(layout, notes=(*layout.notes, *notes)) if layout else None


def _is_coco(found: Listing, file: str, there: Peek) -> bool:
    """By its keys; a broken file counts by its place and name, so that its reader can say what is wrong."""
    if len({"images", "annotations", "categories"} & there.keys) >= 2:
        return bool({"categories", "bbox"} & there.keys)
    expected = stem_of(file).startswith("instances") or "annotations" in posixpath.dirname(file).split("/")
    return expected and split_of_file(file) is not None and _is_broken(found.root / file)


def _is_for_test(file: str) -> bool:
    """Whether a file may lack annotations; train and val without them are refused by their reader."""
    return split_of_file(file) == "test" or stem_of(file).startswith(("image_info", "unlabeled"))


def _is_broken(path: Path) -> bool:
    try:
        any_json(path)
    except DataError:
        return True
    return False


def read_coco_tree(root: Path, images: str, annotations: str, *, box_corners: bool = False) -> Tree:
    """A split of COCO with its records made uniform; DataError for a file name that leads out of `root`."""
    path, folder = root / annotations, root / images
    faults: list[Fault] = []
    content = read_json(path, faults, corners=box_corners)
    faults += respell(content, path, folder, root)
    if unusable := unusable_names(content, path, folder, root):
        raise DataError(f"{unusable[0].text} ({len(unusable)} like this); give each file's path below the image "
                        "folder")  # fmt: skip
    listed_categories(content, path)
    return Tree(content, folder, path, notices=in_one_line(faults, NOTICES))


def write_coco(folder: Path, trees: Mapping[str, Tree], images: str) -> list[str]:
    (folder / "annotations").mkdir()
    for name, tree in trees.items():
        names = plain_names(tree)
        records = ({**image, "file_name": names[image["file_name"]]} for image in tree.content["images"])
        annotations = (
            {"area": a["bbox"][2] * a["bbox"][3], **{k: v for k, v in a.items() if k != "where"}}
            for a in tree.content["annotations"]
        )
        content = {**tree.content, "images": records, "annotations": annotations}
        write_json(folder / "annotations" / f"{name}.json", content)
        place_images(tree, {old: folder / name / new for old, new in names.items()}, images)
    return []


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as `json.dumps` gives it, iterators as lists: no second copy of all records is in memory."""
    with path.open("w", encoding="utf-8") as file:
        for number, (key, value) in enumerate(content.items()):
            file.write(f"{', ' if number else '{'}{json.dumps(key)}: ")
            if isinstance(value, Iterator):
                file.writelines(_list_in_pieces(value))
            else:
                file.write(json.dumps(value))
        file.write("}")


def _list_in_pieces(records: Iterator[Any]) -> Iterator[str]:
    before = "["
    while piece := list(islice(records, AT_ONCE)):
        yield before + json.dumps(piece)[1:-1]
        before = ", "
    yield "]" if before == ", " else "[]"


COCO = Format(
    "coco", look_coco, ("images", "annotations"), 2, read_coco_tree, ("box_corners",), write_coco, "COCO (JSON)"
)
