"""The annotations of a split: what cannot be a box, what is there twice, what belongs to nothing."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools import mask

from detr_mini.checking.frames import AS_IS, Boxes, Frame, moved_box
from detr_mini.checking.images import Images
from detr_mini.checking.pictures import Picture
from detr_mini.formats import outlines
from detr_mini.formats.box_rules import BoxFault, area_of_objects, clip_boxes, enclosing, is_box, rotation_of
from detr_mini.formats.faults import Fault, Fix, Kind
from detr_mini.formats.records import annotation_fault, where
from detr_mini.formats.tree import Tree
from detr_mini.formats.values import is_number, is_whole
from detr_mini.safe_files import shown

SAME = 0.98
"""IoU from which two boxes of one image are one."""
DOUBTFUL = 0.5
"""IoU from which boxes of one category in two records of one file may be the same object, drawn twice."""
AT_ONCE = 256
"""Boxes that are compared with others in one piece."""
_SLACK = 1.05
"""An outline's area may pass its box's by so much: tools round them each by itself."""


def usable_boxes(tree: Tree) -> dict[int, Boxes]:
    """By image id the boxes that have numbers and a size, as they are written."""
    found: dict[int, list[tuple[list[float], Any]]] = defaultdict(list)
    for annotation in tree.content["annotations"]:
        image_id, box = annotation.get("image_id"), annotation.get("bbox")
        if is_whole(image_id) and is_box(box) and min(box[2:]) > 0:
            found[image_id].append((box, str(annotation.get("category_id"))))
    return {i: Boxes(np.array([b for b, _ in own], np.float64), [c for _, c in own]) for i, own in found.items()}


def checked_boxes(tree: Tree, images: Images, faults: list[Fault]) -> list[dict[str, Any]]:
    """The annotations that a fixed copy has, fixed in place. Every other one is counted in a fault (`Fault.boxes`)."""
    known = {c["id"] for c in tree.content["categories"]}
    kept: list[dict[str, Any]] = []
    own: dict[int, list[dict[str, Any]]] = defaultdict(list)
    lost: Counter[int] = Counter()
    for number, annotation in enumerate(tree.content["annotations"], start=1):
        if _is_sound(annotation, images, known):
            kept.append(annotation)
            own[annotation["image_id"]].append(annotation)
            continue
        place = where(annotation, number, tree.path).replace(str(tree.path), tree.path.name)
        fixed = _checked(annotation, place, images, known, lost, faults)
        if fixed is not None:
            kept.append(fixed)
            own[fixed["image_id"]].append(fixed)
    for second, first in images.same.items():
        _join(second, first, own, images, faults)
    for annotation in kept:
        image_id = annotation["image_id"] = images.same.get(annotation["image_id"], annotation["image_id"])
        lost[image_id] += image_id in images.out
    for image_id, place_of_fault in images.out.items():
        fault = faults[place_of_fault]
        faults[place_of_fault] = replace(fault, boxes=fault.boxes + lost[image_id])
    kept = [annotation for annotation in kept if annotation["image_id"] not in images.out]
    _check_ids(kept, faults)
    return _without_twins(kept, images.records, faults)


def _is_sound(annotation: dict[str, Any], images: Images, known: set[Any]) -> bool:
    """Whether nothing at all is wrong, or to be moved: nearly all annotations, at a tenth of the time."""
    image_id, area = annotation.get("image_id"), annotation.get("area", 1)
    box: Any = annotation.get("bbox")
    if type(image_id) is not int or images.frames.get(image_id) is not AS_IS or image_id in images.out:
        return False
    if type(annotation.get("category_id")) is not int or annotation["category_id"] not in known or not is_box(box):
        return False
    crowd = annotation.get("iscrowd", 0)
    height, width = images.pictures[image_id].size
    x, y, w, h = box
    inside = x >= 0 and y >= 0 and w >= 1 and h >= 1 and x + w <= width and y + h <= height
    scored = is_number(area) and 0 < area <= w * h * _SLACK + 1
    flags = type(crowd) is int and crowd in (0, 1) and annotation.get("ignore", 0) in (0, 1)
    return inside and scored and flags and not rotation_of(annotation) % 180


def _checked(
    annotation: dict[str, Any], place: str, images: Images, known: set[Any], lost: Counter[int], faults: list[Fault]
) -> dict[str, Any] | None:
    image_id: Any = annotation.get("image_id")
    name = images.records[image_id]["file_name"] if is_whole(image_id) and image_id in images.records else ""
    place = f"{place} ({name})" if name and name not in place else place
    missing = [key for key in ("image_id", "category_id", "bbox") if annotation.get(key) is None]
    found = (
        (Kind.INCOMPLETE_ANNOTATION, f"lacks {', '.join(missing)}")
        if missing
        else annotation_fault(annotation, images.records, known)
    )
    if found and not (found[0] is Kind.BAD_CROWD_FLAG and _is_out(image_id, images)):
        faults.append(Fault(found[0], f"{place} {found[1]}", name, Fix.LEFT_OUT, boxes=1))
        return None
    if _is_out(image_id, images):
        lost[image_id] += 1
        return None
    return _placed(annotation, place, images.records[image_id], images.pictures[image_id], images.frames[image_id],
                   faults)  # fmt: skip


def _is_out(image_id: int, images: Images) -> bool:
    return images.same.get(image_id, image_id) in images.out or image_id in images.out


def _placed(
    annotation: dict[str, Any],
    place: str,
    record: Mapping[str, Any],
    picture: Picture,
    frame: Frame,
    faults: list[Fault],
) -> dict[str, Any] | None:
    """The annotation on the upright file: turned or scaled with it, around what is turned, cut at its edge."""
    name, size = record["file_name"], picture.size
    written = f"bbox [{', '.join(f'{v:.12g}' for v in annotation['bbox'])}]"
    box = [float(v) for v in annotation["bbox"]]
    _check_area(annotation, place, name, faults)
    outline, area, drawn = annotation.get("segmentation"), annotation.get("area", math.nan), None
    angle = rotation_of(annotation)
    if angle % 180 and min(box[2:]) > 0:
        drawn = [0.0, 0.0, box[2] * frame.area, box[3]]
        box = enclosing(np.array([box]), np.array([angle]))[0].tolist()
        text = f"{place}: {written} is turned by {angle:g} degrees"
        faults.append(Fault(Kind.TURNED_BOX, text, name, Fix.UPRIGHT_BOX))
        annotation["attributes"] = {k: v for k, v in annotation["attributes"].items() if k != "rotation"}
    if frame is not AS_IS:
        box = moved_box(frame, box)
        outline, area = outlines.moved(outline, frame.move), area * frame.area
        if "keypoints" in annotation:
            annotation["keypoints"] = outlines.moved_keypoints(annotation["keypoints"], frame.move)
    clipped, (fault,) = clip_boxes(np.array([box]), np.array([size]))
    if fault:
        text = f"{place}: {written} {fault.text(size)}"
        if fault is not BoxFault.PAST_EDGE:
            faults.append(Fault(fault.kind, text, name, Fix.LEFT_OUT, boxes=1))
            return None
        box = clipped[0].tolist()
        to = f"to [{', '.join(f'{v:.6g}' for v in box)}]"
        faults.append(Fault(fault.kind, text, name, Fix.CLIPPED, to))
        outline = outlines.cut(outline, size)
    elif min(box[2:]) < 1 and not annotation.get("iscrowd"):
        faults.append(Fault(Kind.TINY_BOX, f"{place}: {written}", name))
    if "area" in annotation or drawn:
        stated, own, upright = (np.array([v], np.float64) for v in (area, drawn or box, box))
        (area,) = area_of_objects(stated, own, upright, np.array([fault is not None])).tolist()
        annotation["area"] = area if area != annotation.get("area") else annotation["area"]
    annotation["bbox"] = box if box != annotation["bbox"] else annotation["bbox"]
    if outline is None and annotation.get("segmentation"):
        text = f"{place}: its outline is no list of polygons, and its box is moved or cut"
        faults.append(Fault(Kind.UNMOVABLE_OUTLINE, text, name, Fix.BOX_ALONE))
        del annotation["segmentation"]
    elif outline is not None:
        annotation["segmentation"] = outline
    return annotation


def _check_area(annotation: dict[str, Any], place: str, name: str, faults: list[Fault]) -> None:
    area = annotation.get("area")
    if area is None:
        annotation.pop("area", None)
        return
    _, _, w, h = annotation["bbox"]
    if not is_number(area) or area < 0 or (area == 0 and w * h > 1) or (area > w * h * _SLACK + 1 and w * h > 0):
        text = f"{place}: area {shown(area)}, its box has {w * h:.6g}"
        faults.append(Fault(Kind.BAD_AREA, text, name, Fix.BOX_AREA))
        annotation["area"] = w * h


def _join(
    second: int, first: int, own: Mapping[int, list[dict[str, Any]]], images: Images, faults: list[Fault]
) -> None:
    """Boxes of two records of one file: both sets are right, or they are one set; else the image is left out."""
    if first in images.out or second in images.out:
        place = images.out.get(first, images.out.get(second, 0))
        images.out = {first: place, second: place, **images.out}
        return
    one, two = own.get(first, []), own.get(second, [])
    if not one or not two:
        return
    overlap = overlaps(*(np.array([a["bbox"] for a in boxes], np.float64) for boxes in (one, two)))
    same = np.array([[a["category_id"] == b["category_id"] for b in two] for a in one])
    doubtful = (overlap > DOUBTFUL) & same
    if ((overlap >= SAME) & same).any(1).all() and ((overlap >= SAME) & same).any(0).all():
        return
    if doubtful.any():
        name = images.records[first]["file_name"]
        text = f"{name}, ids {first} and {second}: boxes of one lie on boxes of the other, and are others"
        images.leave_out(first, Fault(Kind.LISTED_TWICE, text, name, Fix.LEFT_OUT), faults)


def _check_ids(kept: Sequence[dict[str, Any]], faults: list[Fault]) -> None:
    """Give a free id to each annotation that has none, or the one of an earlier annotation."""
    seen: set[int] = set()
    twice: Counter[int] = Counter()
    free = max((a["id"] for a in kept if is_whole(a.get("id"))), default=0) + 1
    for annotation in kept:
        own: Any = annotation.get("id")
        if is_whole(own) and own in seen:
            twice[own] += 1
        if not is_whole(own) or own in seen:
            annotation["id"], free = free, free + 1
        seen.add(annotation["id"])
    for annotation_id, count in twice.items():
        text = f"id {annotation_id}, {count + 1} annotations"
        faults.append(Fault(Kind.ANNOTATION_ID_TWICE, text, fix=Fix.NEW_IDS))


def _without_twins(
    kept: list[dict[str, Any]], records: Mapping[int, dict[str, Any]], faults: list[Fault]
) -> list[dict[str, Any]]:
    owned: dict[int, list[int]] = defaultdict(list)
    for index, annotation in enumerate(kept):
        owned[annotation["image_id"]].append(index)
    gone = set()
    for image_id, own in owned.items():
        name = records[image_id]["file_name"]
        for first, second in _twins(np.array([kept[i]["bbox"] for i in own], np.float64)):
            one, two = kept[own[first]], kept[own[second]]
            boxes = f"bbox {[round(v, 2) for v in one['bbox']]} and {[round(v, 2) for v in two['bbox']]}"
            crowd = [bool(a.get("iscrowd")) for a in (one, two)]
            if own[first] in gone or own[second] in gone or crowd[0] != crowd[1]:
                continue
            if one["category_id"] == two["category_id"]:
                gone.add(own[second])
                faults.append(Fault(Kind.BOX_TWICE, f"{name}: {boxes}", name, Fix.KEPT_ONCE, boxes=1))
            elif not crowd[0]:
                text = f"{name}: {boxes}, categories {one['category_id']} and {two['category_id']}"
                faults.append(Fault(Kind.BOX_OF_TWO_CATEGORIES, text, name))
    return [annotation for index, annotation in enumerate(kept) if index not in gone]


def _twins(boxes: Float[np.ndarray, "n 4"]) -> list[tuple[int, int]]:
    """Pairs (earlier, later) of xywh boxes of one image with an IoU from SAME, in order.

    The left edges of such a pair differ by at most 1 - SAME of the larger width: boxes are compared with those whose
    left edge is so near, `AT_ONCE` of them at a time. The matrix of all pairs has 7 GB for 30,000 boxes.
    """
    order = np.argsort(boxes[:, 0], kind="stable")
    own = boxes[order]
    ends = np.searchsorted(own[:, 0], own[:, 0] + 2 * (1 / SAME - 1) * own[:, 2], side="right")
    pairs = [np.empty((0, 2), np.int64)]
    for begin in range(0, len(own), AT_ONCE):
        rows, end = own[begin : begin + AT_ONCE], int(ends[begin : begin + AT_ONCE].max())
        pairs.append(np.argwhere(np.triu(overlaps(rows, own[begin:end]) >= SAME, 1)) + begin)
    return sorted((a, b) for a, b in np.sort(order[np.concatenate(pairs)], 1).tolist())


def overlaps(one: Float[np.ndarray, "n 4"], two: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """IoU of xywh boxes."""
    return mask.iou(one, two, [0] * len(two))
