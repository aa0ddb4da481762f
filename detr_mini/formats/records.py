"""The records of a COCO file, made uniform once, so that every reader, check and writer sees the same values.

Numbers written as text become numbers, an outline without a box gets its box, `ignore` becomes `iscrowd`, and accents
become one character each. Whatever changes is a `Fault`; whatever cannot be understood stays, and is refused later.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detr_mini.formats.box_rules import from_corners, is_box
from detr_mini.formats.faults import Fault, Fix, Kind
from detr_mini.formats.listing import Listing, names_below
from detr_mini.formats.outlines import box_of_outline
from detr_mini.formats.values import as_flag, as_number, as_whole, is_whole
from detr_mini.safe_files import is_file, name_fault, shown, spelled_on_disk

_IDS = {
    "images": ("id", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "iscrowd", "ignore"),
    "categories": ("id",),
}


def where(annotation: Mapping[str, Any], number: int, path: Path) -> str:
    """Names an annotation in a message."""
    if "where" in annotation:
        return str(annotation["where"])
    if annotation.get("id") is not None:
        return f"annotation {shown(annotation['id'])} of {path}"
    return f"annotation number {number} of {path}"


def annotation_fault(
    annotation: Mapping[str, Any], images: Container[int], categories: Container[int]
) -> tuple[Kind, str] | None:
    """Why nothing can be made of an annotation that is tidy: the kind, and the predicate of a sentence about it."""
    image_id, category_id, box = (annotation.get(key) for key in ("image_id", "category_id", "bbox"))
    if not is_whole(image_id) or image_id not in images:
        return Kind.UNKNOWN_IMAGE, f"belongs to image id {shown(image_id)}, which is not among the images"
    if not is_whole(category_id) or category_id not in categories:
        return Kind.UNKNOWN_CATEGORY, f"has category id {shown(category_id)}, which is not among the categories"
    if not is_box(box):
        return Kind.BOX_WITHOUT_NUMBERS, f"has the bbox {shown(box)}"
    for key in ("iscrowd", "ignore"):
        if as_flag(annotation.get(key)) not in (0, 1):
            return Kind.BAD_CROWD_FLAG, f"has {key} {shown(annotation[key])}"
    return None


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
    absent = {name for name in names if name in outside or not is_file(folder / name)}
    found = spelled_on_disk(folder, [name for name in names if name in absent and name not in outside])
    missing = [name for name in names if name in absent and name not in found]
    moved = names_below(Listing(folder), missing, names) if missing else {}
    for image in content["images"] if found or moved else ():
        image["file_name"] = (found | moved).get(_name(image), image.get("file_name"))
    kinds = ((Kind.SPELLED_DIFFERENTLY, found), (Kind.MOVED, moved))
    return [Fault(kind, f"{path} has {a!a}, the disk {b!a}", b, Fix.NAME_ON_DISK, f"{b!a}")
            for kind, renamed in kinds for a, b in renamed.items()]  # fmt: skip


def in_one_line(faults: Sequence[Fault], kinds: Iterable[Kind]) -> list[str]:
    """A notice for each of these kinds that occurs: how often, and where first."""
    notices = []
    for kind in kinds:
        found = [fault for fault in faults if fault.kind is kind]
        if found:
            notices.append(f"{kind}: {len(found)}, the first is {found[0].text}")
    return notices
