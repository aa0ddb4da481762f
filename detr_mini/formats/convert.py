"""Converts a dataset from one annotation format to another; a round trip gives exactly the same boxes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from detr_mini.errors import ConfigError, DataError, nearest
from detr_mini.formats.columns import columns_of
from detr_mini.formats.discover import FORMATS, Source
from detr_mini.formats.faults import LOSSLESS, NOTICES
from detr_mini.formats.records import in_one_line
from detr_mini.formats.tree import Tree
from detr_mini.formats.writing import free_place, new_folder
from detr_mini.images.header import image_size
from detr_mini.progress import BAR_FROM, track

WRITTEN = tuple(sorted(name for name, known in FORMATS.items() if known.write))
"""Formats that can be written; a dataset in another format is written as COCO."""
PLACING = ("copy", "link", "none")


def convert(source: Source, output: str | Path, to: str, *, images: str = "copy") -> list[str]:
    """Write `source` in the form `to` (one of WRITTEN) into the new folder `output`; returns notes.

    `images`: "copy" them, "link" (hard links, where the disk can), or "none". Boxes are copied
    unchanged, those past the edge too. What the new format cannot hold is left out and counted in the notes. DataError
    for what cannot be read.
    """
    if to not in WRITTEN:
        raise ConfigError(f"to is {to!r}{nearest(str(to), WRITTEN)}; it must be {', '.join(WRITTEN)}")
    if images not in PLACING:
        raise ConfigError(f"images is {images!r}{nearest(str(images), PLACING)}; it must be {', '.join(PLACING)}")
    if to == source.format:
        raise ConfigError(f"{source.root} is in the form {to} already; nothing to convert")
    free_place(output)
    trees = source.trees()
    notes: list[str] = []
    for name, tree in trees.items():
        columns_of(tree.content, tree.path)  # says what cannot be used
        notes += check_sizes(name, tree)
    with new_folder(output) as folder:
        notes += write_set(folder, to, trees, images)
    return notes


def check_sizes(name: str, tree: Tree) -> list[str]:
    """Give each image its size; DataError where the annotations state another. Returns the notices of the reader."""
    for image in track(tree.content["images"], f"Measuring the {name} images", at_least=BAR_FROM):
        size, _ = tree.sizes.get(image["id"]) or image_size(os.path.join(tree.folder, image["file_name"]))
        said = image.get("height"), image.get("width")
        if all(said) and said != size:
            sizes = f"{size[1]} x {size[0]} pixels, but {tree.path} says {said[1]} x {said[0]}"
            raise DataError(f"{image['file_name']} is {sizes}: its boxes do not fit; see 'detr-mini data check'")
        image["height"], image["width"] = size
    lost = [fault for fault in tree.faults if fault.kind not in LOSSLESS]
    if lost:
        raise DataError(f"{lost[0].kind}: {lost[0].text} ({len(lost)} faults that lose a box or an image); fix them "
                        "first: 'detr-mini data check fix=true' writes a fixed copy")  # fmt: skip
    return [f"{name}: {notice}" for notice in (*tree.notices, *in_one_line(tree.faults, NOTICES))]


def written_as(format: str) -> str:
    """The format that a dataset of this one is written in: its own, or COCO where there is no writer."""
    return format if format in WRITTEN else "coco"


def write_set(folder: Path, to: str, trees: Mapping[str, Tree], images: str = "copy") -> list[str]:
    """Write the splits in the format `to` into `folder`; returns what it cannot hold. Images must have sizes."""
    write = FORMATS[written_as(to)].write
    assert write is not None
    return write(folder, trees, images)
