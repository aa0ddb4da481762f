"""The records of a COCO file, made uniform once, so that every reader, check and writer sees the same values.

Numbers written as text become numbers, an outline without a box gets its box, `ignore` becomes `iscrowd`, and accents
become one character each. Whatever changes is a `Fault`; whatever cannot be understood stays, and is refused later.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from detr_mini.errors import printable
from detr_mini.formats.faults import Fault, Fix, Kind
from detr_mini.formats.listing import names_below
from detr_mini.safe_files import is_file, name_fault, shown, spelled_on_disk

MOST_PIXELS = 1e9
"""Coordinates beyond this are no pixels."""
_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,18})(?:\.0*)?\s*")
_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?\s*")
_IDS = {
    "images": ("id", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "iscrowd", "ignore"),
    "categories": ("id",),
}


def is_whole(value: Any) -> bool:
    """Whether it is a whole number of 64 bits (true and false are none)."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_number(value: Any) -> bool:
    """Whether it is a finite number (true and false are none)."""
    if isinstance(value, int):
        return is_whole(value)
    return isinstance(value, float) and math.isfinite(value)


def is_box(value: Any) -> bool:
    """Whether it is a list of four numbers that can be pixels."""
    return isinstance(value, list) and len(value) == 4 and all(is_number(v) and abs(v) <= MOST_PIXELS for v in value)


def is_text(value: Any) -> bool:
    """Whether it is text that can be printed and written: not blank, no control characters, no half of a character."""
    return isinstance(value, str) and bool(value.strip()) and printable(value) == value


def as_whole(value: Any) -> Any:
    """The whole number that 7.0, "7" and "7.0" stand for; anything else as it is."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, str) and (match := _WHOLE.fullmatch(value)):
        return int(match[1])
    return value


def as_number(value: Any) -> Any:
    """The number that "7.5" stands for; anything else as it is."""
    if isinstance(value, str) and _NUMBER.fullmatch(value) and math.isfinite(number := float(value)):
        return number
    return value


def as_flag(value: Any) -> Any:
    """1 or 0 for true, false, "1", "0", 1.0 and null; anything else as it is. Never by the truth of a value."""
    return 0 if value is None else int(value) if isinstance(value, bool) else as_whole(value)


def where(annotation: Mapping[str, Any], number: int, path: Path) -> str:
    """Names an annotation in a message."""
    if "where" in annotation:
        return str(annotation["where"])
    if annotation.get("id") is not None:
        return f"annotation {shown(annotation['id'])} of {path}"
    return f"annotation number {number} of {path}"


def tidy(content: Mapping[str, Any], path: Path, *, corners: bool = False) -> list[Fault]:
    """Make the records of a COCO file's content uniform, in place; what was changed.

    `corners`: the four numbers of a bbox are left, top, right, bottom.
    """
    faults: list[Fault] = []
    files = {}
    for number, image in enumerate(content["images"], start=1):
        _whole_numbers(image, "images", f"image number {number} of {path}", _name(image), faults)
        if is_whole(image.get("id")):
            files[image["id"]] = _name(image)
    for number, category in enumerate(content["categories"], start=1):
        _whole_numbers(category, "categories", f"category number {number} of {path}", "", faults)
        name = category.get("name")
        if isinstance(name, str) and not unicodedata.is_normalized("NFC", name):
            category["name"] = unicodedata.normalize("NFC", name)
            text = f"category {shown(category.get('id'))} of {path}: {name!r} is stored as {name!a}"
            faults.append(Fault(Kind.DECOMPOSED_NAME, text, fix=Fix.COMPOSED_NAME, detail=f"({category['name']!a})"))
    for number, annotation in enumerate(content["annotations"], start=1):
        owner = annotation.get("image_id")
        place, file = where(annotation, number, path), files.get(owner, "") if is_whole(owner) else ""
        _whole_numbers(annotation, "annotations", place, file, faults)
        _area_number(annotation, place, file, faults)
        if corners and is_box(annotation.get("bbox")):
            annotation["bbox"] = from_corners(annotation["bbox"])
        if not annotation.get("bbox"):
            _box_of_outline(annotation, place, file, faults)
        if as_flag(annotation.get("ignore")) == 1 and as_flag(annotation.get("iscrowd")) == 0:
            annotation["iscrowd"] = 1
            faults.append(Fault(Kind.MARKED_IGNORED, f"{place}: ignore is 1", file, Fix.CROWD))
    return faults


def from_corners(box: Sequence[float | int]) -> list[float | int]:
    """Left, top, right, bottom as left, top, width, height."""
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


def _name(image: Mapping[str, Any]) -> str:
    name = image.get("file_name")
    return name if isinstance(name, str) else ""


def _whole_numbers(record: dict[str, Any], kind: str, place: str, file: str, faults: list[Fault]) -> None:
    for key in _IDS[kind]:
        value = record.get(key)
        if type(value) is int or (value is None and key != "iscrowd"):
            continue
        if key in ("iscrowd", "ignore"):
            if key in record:
                record[key] = as_flag(value)
        elif key in ("height", "width") and not isinstance(value, str):
            continue
        else:
            record[key] = as_whole(value)
        if isinstance(value, str) and type(record[key]) is int:
            faults.append(
                Fault(Kind.NUMBER_AS_TEXT, f"{place}: {key} {shown(value)}", file, Fix.NUMBER, str(record[key]))
            )


def _area_number(annotation: dict[str, Any], place: str, file: str, faults: list[Fault]) -> None:
    area = annotation.get("area")
    if isinstance(area, str) and (number := as_number(area)) is not area:
        annotation["area"] = number
        faults.append(Fault(Kind.NUMBER_AS_TEXT, f"{place}: area {shown(area)}", file, Fix.NUMBER, f"{number:g}"))


def _box_of_outline(annotation: dict[str, Any], place: str, file: str, faults: list[Fault]) -> None:
    """Give an annotation that has an outline and no box the box around the outline."""
    box = box_of_outline(annotation.get("segmentation"))
    if box is not None and is_box(box):
        annotation["bbox"] = box
        text = f"{place}: no bbox, its outline lies in [{', '.join(f'{v:.6g}' for v in box)}]"
        faults.append(Fault(Kind.OUTLINE, text, file, Fix.UPRIGHT_BOX))


def box_of_outline(outline: Any) -> list[float] | None:
    """The xywh box around polygons [[x, y, x, y, ...], ...] or run lengths {counts, size}; None where it is neither."""
    if isinstance(outline, Mapping):
        return _box_of_runs(outline.get("counts"), outline.get("size"))
    if not isinstance(outline, list) or not outline:
        return None
    polygons = [outline] if is_number(outline[0]) else outline
    xs: list[float] = []
    ys: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not all(map(is_number, polygon)):
            return None
        xs += polygon[0::2]
        ys += polygon[1::2]
    return [float(v) for v in (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))]


def _box_of_runs(counts: Any, size: Any) -> list[float] | None:
    """COCO's run lengths: pixels of the background and of the object in turn, column by column."""
    if not isinstance(size, list) or len(size) != 2 or not all(is_whole(v) and 0 < v < MOST_PIXELS for v in size):
        return None
    height, width = size
    runs = _decoded(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(is_whole(v) and v >= 0 for v in runs) or sum(runs) > height * width:
        return None
    ends = list(accumulate(runs))
    found = [(begin, end) for begin, end in list(pairwise(ends))[::2] if end > begin]
    if not found:
        return None
    left, right = min(b for b, _ in found) // height, (max(e for _, e in found) - 1) // height
    if any(b // height != (e - 1) // height for b, e in found):
        top, bottom = 0, height - 1  # a run over the end of a column touches the top and the bottom
    else:
        top, bottom = min(b % height for b, _ in found), max((e - 1) % height for _, e in found)
    return [float(left), float(top), float(right - left + 1), float(bottom - top + 1)]


def _decoded(text: str) -> list[int] | None:
    """Run lengths from pycocotools' text: five bits a character, from the third number on as differences."""
    runs: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            if place == len(text) or not 48 <= ord(text[place]) < 112 or shift > 60:
                return None
            bits = ord(text[place]) - 48
            value |= (bits & 31) << shift
            more, place, shift = bool(bits & 32), place + 1, shift + 5
            if not more and bits & 16:
                value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def unusable_names(content: Mapping[str, Any], path: Path, folder: Path, root: Path) -> list[Fault]:
    """The image records whose file names cannot be used below `folder`, or lead out of `root`."""
    faults = []
    for number, image in enumerate(content["images"], start=1):
        name = image.get("file_name")
        if isinstance(name, str) and name and (fault := name_fault(name, folder, root)):
            text = f"image number {number} of {path} has the file_name {shown(name)}, which {fault}"
            faults.append(Fault(Kind.UNUSABLE_NAME, text, name, Fix.LEFT_OUT))
    return faults


def respell(content: Mapping[str, Any], path: Path, folder: Path, root: Path) -> list[Fault]:
    """Give images whose files are spelled differently on disk, or lie elsewhere, the names that the files have."""
    names = sorted({image["file_name"] for image in content["images"] if _name(image)})
    outside = {name for name in names if name_fault(name, folder, root)}
    found = spelled_on_disk(folder, [n for n in names if n not in outside and not is_file(folder / n)])
    missing = [n for n in names if n in outside or (n not in found and not is_file(folder / n))]
    found |= names_below(folder, missing) if missing else {}
    for image in content["images"] if found else ():
        image["file_name"] = found.get(_name(image), image.get("file_name"))
    return [Fault(Kind.SPELLED_DIFFERENTLY, f"{path} has {a!a}, the disk {b!a}", b, Fix.NAME_ON_DISK, f"{b!a}")
            for a, b in found.items()]  # fmt: skip


def in_one_line(faults: Sequence[Fault], kinds: Iterable[Kind]) -> list[str]:
    """A notice for each of these kinds that occurs: how often, and where first."""
    notices = []
    for kind in kinds:
        found = [fault for fault in faults if fault.kind is kind]
        if found:
            notices.append(f"{kind}: {len(found)}, the first is {found[0].text}")
    return notices
