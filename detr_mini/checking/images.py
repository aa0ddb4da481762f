"""The image records of a split against the files: what is missing, broken, turned, of another size, there twice."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from detr_mini.checking.frames import (
    AS_IS,
    Boxes,
    Frame,
    Habits,
    contradicts,
    drawn_on_the_file,
    same_shape,
    scaled,
    turned,
)
from detr_mini.checking.pictures import KEPT, Picture, digest_of_file
from detr_mini.errors import DataError
from detr_mini.formats.faults import Fault, Fix, Kind
from detr_mini.formats.tree import Tree
from detr_mini.formats.values import is_number, is_whole
from detr_mini.images.header import image_size, orientation_of
from detr_mini.images.whole import refuse_cut
from detr_mini.progress import track
from detr_mini.safe_files import is_file, shown


def look_at(path: Path, pixels: bool, keep: bool = True) -> Picture:
    """Read a file; DataError where it is no image, or cut off. `keep`: the small grey copy, too.

    Only what decodes pixels imports torch, which takes longer than the headers of ten thousand images.
    """
    if pixels:
        from detr_mini.checking.pixels import decoded

        return decoded(path, keep)
    size, _ = image_size(path)
    refuse_cut(path)
    return Picture(size, orientation_of(path), digest_of_file(path), path)


@dataclass
class Images:
    """The images of a split: which are usable, and on which pixels their boxes lie."""

    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By id."""
    same: dict[int, int] = field(default_factory=dict)
    """Of a second record of one file, the id of the first."""
    out: dict[int, int] = field(default_factory=dict)
    """Images that the fixed copy lacks: the place of the fault that says why."""
    pictures: dict[int, Picture] = field(default_factory=dict)
    frames: dict[int, Frame] = field(default_factory=dict)

    def leave_out(self, image_id: int, fault: Fault, faults: list[Fault]) -> None:
        """Report a fault for which the fixed copy lacks an image; the first such fault counts its boxes."""
        self.out.setdefault(image_id, len(faults))
        faults.append(fault)


def checked_records(tree: Tree, faults: list[Fault]) -> Images:
    """The usable image records."""
    images = Images()
    by_name: dict[str, int] = {}
    for number, image in enumerate(tree.content["images"], start=1):
        image_id, name = image.get("id"), image.get("file_name")
        place = f"image number {number} of {tree.path.name}"
        if not is_whole(image_id) or not isinstance(name, str) or not name:
            known = {key: image.get(key) for key in ("id", "file_name")}
            image_name = name if isinstance(name, str) else ""
            faults.append(Fault(Kind.INCOMPLETE_IMAGE, f"{place}: {shown(known)}", image_name, Fix.LEFT_OUT))
        elif image_id in images.records:
            other = images.records[image_id]
            text = f"{place}: id {image_id} is {other['file_name']} and {name}"
            if all(other.get(key) == image.get(key) for key in ("file_name", "height", "width")):
                faults.append(Fault(Kind.IMAGE_ID_TWICE, text, name, Fix.KEPT_ONCE))
            else:  # it is unknown which boxes belong to which
                images.leave_out(image_id, Fault(Kind.IMAGE_ID_TWICE, text, name, Fix.BOTH_LEFT_OUT), faults)
        else:
            if name in by_name:
                text = f"{name}, ids {by_name[name]} and {image_id}"
                faults.append(Fault(Kind.LISTED_TWICE, text, name, Fix.BOXES_TO_FIRST))
                images.same[image_id] = by_name[name]
            by_name.setdefault(name, image_id)
            images.records[image_id] = image
    if not tree.content["images"]:
        faults.append(Fault(Kind.EMPTY_SPLIT, f"{tree.path.name} lists no images"))
    bases = defaultdict(set)
    for name in by_name:
        bases[PurePosixPath(name).name].add(name)
    faults += [
        Fault(Kind.SAME_NAME, ", ".join(sorted(names)), min(names)) for names in bases.values() if len(names) > 1
    ]
    return images


def checked_files(
    tree: Tree,
    split: str,
    images: Images,
    boxes: Callable[[], Mapping[int, Boxes]],
    faults: list[Fault],
    pixels: bool,
) -> None:
    """Look at the records' files: adds pictures and frames, and leaves out what is missing, broken or uncertain.

    `boxes`: gives the usable ones, as they are, by image id.
    """
    chosen = [(i, record) for i, record in images.records.items() if i not in images.same]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looks = pool.map(
            lambda item: _look(tree.folder / item[1][1]["file_name"], pixels, item[0] < KEPT), enumerate(chosen)
        )
        tracked = track(looks, f"Looking at the {split} images", len(chosen), at_least=200)
        for (image_id, record), picture in zip(chosen, tracked, strict=True):
            name = record["file_name"]
            if isinstance(picture, str):
                kind = Kind.UNREADABLE_IMAGE if picture else Kind.IMAGE_MISSING
                text = picture if picture else f"{name} is not in {tree.folder}"
                images.leave_out(image_id, Fault(kind, text, name, Fix.LEFT_OUT), faults)
            else:
                images.pictures[image_id] = picture
    for second, first in images.same.items():
        if first in images.pictures:
            images.pictures[second] = images.pictures[first]
    _check_sizes(images, boxes, faults)


def _check_sizes(images: Images, usable: Callable[[], Mapping[int, Boxes]], faults: list[Fault]) -> None:
    """Compare what the records say with the files; see `frames`."""
    none = Boxes(np.zeros((0, 4)), ())
    said: dict[int, tuple[float | int, float | int]] = {}
    for image_id, picture in images.pictures.items():
        images.frames[image_id] = AS_IS
        height, width = (images.records[image_id].get(key) for key in ("height", "width"))
        if is_number(height) and is_number(width) and min(height, width) > 0 and (height, width) != picture.size:
            said[image_id] = (height, width)
    boxes = usable() if said else {}
    right = [(boxes[i], picture.size) for i, picture in images.pictures.items() if i in boxes and i not in said]
    habits = Habits(right) if said else None
    groups: dict[float, dict[int, Boxes]] = defaultdict(dict)
    for image_id, stated in said.items():
        size = images.pictures[image_id].size
        if image_id in boxes and same_shape(stated, size) and stated[0] > 1.2 * size[0]:
            groups[round(stated[0] / size[0], 2)][image_id] = boxes[image_id]
    sizes = {image_id: picture.size for image_id, picture in images.pictures.items()}
    drawn = {i for group in groups.values() if drawn_on_the_file(group, sizes) for i in group}
    for image_id, picture in images.pictures.items():
        name, size, own = images.records[image_id]["file_name"], picture.size, boxes.get(image_id, none)
        text = f"{name} is {size[1]} x {size[0]} pixels"
        if image_id not in said:
            if picture.orientation != 1 and image_id not in images.same:
                text = f"{text} upright, orientation {picture.orientation}"
                faults.append(Fault(Kind.ORIENTATION, text, name))
            continue
        stated, stored = said[image_id], (size[1], size[0])
        sideways = picture.orientation >= 5 and stated == stored
        kind = Kind.SIZE_BEFORE_TURNING if sideways else Kind.OTHER_SIZE
        text = f"{text}, said to be {stated[1]} x {stated[0]}"
        assert habits is not None
        if not sideways and not same_shape(stated, size):
            images.leave_out(image_id, Fault(kind, text, name, Fix.LEFT_OUT), faults)
        elif contradicts(own, stated, size) or image_id in drawn or (
            not sideways and habits.fit_the_file(own, stated, size)
        ):  # fmt: skip
            text = f"{text}, but its boxes look as if they were drawn on this file"
            images.leave_out(image_id, Fault(kind, text, name, Fix.LEFT_OUT), faults)
        elif sideways:
            images.frames[image_id] = turned(picture.orientation, stored)
            faults.append(Fault(kind, text, name, Fix.BOXES_TURNED))
        else:
            images.frames[image_id] = scaled(size[1] / stated[1], size[0] / stated[0])
            faults.append(Fault(kind, text, name, Fix.BOXES_SCALED))


def _look(path: Path, pixels: bool, keep: bool) -> Picture | str:
    """The picture, or why there is none ("": there is no file)."""
    if not is_file(path):
        return ""
    try:
        return look_at(path, pixels, keep)
    except DataError as error:
        return str(error)
