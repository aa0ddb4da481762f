"""The annotations of a split: what cannot be a box, what is there twice, what belongs to nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from detr_mini.data.check_images import Picture, upright_box
from detr_mini.data.coco import clip_boxes, enclosing
from detr_mini.data.columns import is_number, is_whole, rotation_of, where
from detr_mini.data.faults import Fault
from detr_mini.data.records import is_box
from detr_mini.data.safe_files import shown
from detr_mini.data.tree import Tree

SAME = 0.98
"""IoU from which two boxes of one image are one."""
_SLACK = 1.05
"""An outline's area may pass its box's by so much: tools round them each by itself."""


def checked_boxes(
    tree: Tree, split: str, records: Mapping[int, dict[str, Any]], pictures: Mapping[int, Picture], faults: list[Fault]
) -> list[dict[str, Any]]:
    """The annotations that a mended copy has, mended. Those of images that are left out go without a further word."""
    known = {c["id"] for c in tree.content["categories"] if is_whole(c.get("id"))}
    kept = []
    for number, annotation in enumerate(tree.content["annotations"], start=1):
        place = f"{split}: {where(annotation, number, tree.path).replace(str(tree.path), tree.path.name)}"
        mended = _checked(dict(annotation), place, records, pictures, known, faults)
        if mended is not None:
            kept.append(mended)
    _check_ids(kept, split, faults)
    return _without_twins(kept, split, records, faults)


def _checked(
    annotation: dict[str, Any],
    place: str,
    records: Mapping[int, dict[str, Any]],
    pictures: Mapping[int, Picture],
    known: set[Any],
    faults: list[Fault],
) -> dict[str, Any] | None:
    missing = [key for key in ("image_id", "category_id", "bbox") if annotation.get(key) is None]
    if missing:
        faults.append(Fault("annotation incomplete", f"{place} lacks {', '.join(missing)}", mend="left out"))
        return None
    image_id, category_id = annotation["image_id"], annotation["category_id"]
    record = records.get(image_id) if is_whole(image_id) else None
    if record is None:
        text = f"{place} is of image id {shown(image_id)}"
        faults.append(Fault("annotation of an unknown image", text, mend="left out"))
        return None
    name = record["file_name"]
    place = f"{place} ({name})" if name not in place else place
    if not is_whole(category_id) or category_id not in known:
        faults.append(Fault("unknown category", f"{place} has category id {shown(category_id)}", name, "left out"))
        return None
    if "same as" in record:
        image_id = annotation["image_id"] = record["same as"]
    box = annotation["bbox"]
    if not is_box(box):
        faults.append(Fault("box without numbers", f"{place}: bbox {shown(box)}", name, "left out"))
        return None
    picture = pictures.get(image_id)
    if picture is None or records[image_id].get("mend") == "left out":
        return None
    _check_crowd(annotation, place, name, faults)
    return _placed(annotation, place, records[image_id], picture, faults)


def _check_crowd(annotation: dict[str, Any], place: str, name: str, faults: list[Fault]) -> None:
    crowd = annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        faults.append(Fault("iscrowd is neither 0 nor 1", f"{place}: iscrowd {shown(crowd)}", name, "0"))
        annotation["iscrowd"] = 0


def _placed(
    annotation: dict[str, Any], place: str, record: Mapping[str, Any], picture: Picture, faults: list[Fault]
) -> dict[str, Any] | None:
    """The box on the upright file: turned or scaled with it, around what is turned, cut at its edge."""
    name, size = record["file_name"], picture.size
    original = annotation["bbox"]
    written = f"bbox [{', '.join(f'{v:.12g}' for v in original)}]"
    box, moved = [float(v) for v in original], False
    if record.get("mend") == "boxes turned with the picture":
        box, moved = upright_box(box, picture.orientation, (size[1], size[0])), True
    elif record.get("mend") == "boxes scaled":
        wide, high = size[1] / record["width"], size[0] / record["height"]
        box, moved = [box[0] * wide, box[1] * high, box[2] * wide, box[3] * high], True
    angle = rotation_of(annotation)
    if angle % 180 and min(box[2:]) > 0:
        box, moved = enclosing(np.array([box]), np.array([angle]))[0].tolist(), True
        text = f"{place}: {written} is turned by {angle:g} degrees"
        faults.append(Fault("turned box", text, name, "the upright box around it"))
        annotation["attributes"] = {k: v for k, v in annotation["attributes"].items() if k != "rotation"}
    clipped, fault = clip_boxes(np.array([box]), np.array([size]))
    if fault[0]:
        kind = "box past the edge" if "sticks" in fault[0] else \
            "box outside its image" if "outside" in fault[0] else "box without size"  # fmt: skip
        text = f"{place}: {written} {fault[0].format(width=size[1], height=size[0])}"
        mend = f"cut to [{', '.join(f'{v:.6g}' for v in clipped[0])}]" if "sticks" in fault[0] else "left out"
        faults.append(Fault(kind, text, name, mend))
        if mend == "left out":
            return None
        box, moved = clipped[0].tolist(), True
    elif min(box[2:]) < 1 and not annotation.get("iscrowd"):
        faults.append(Fault("box smaller than a pixel", f"{place}: {written}", name))
    _check_area(annotation, place, name, faults)
    if moved:
        annotation["bbox"] = box
        annotation.pop("area", None)
        annotation.pop("segmentation", None)
    return annotation


def _check_area(annotation: dict[str, Any], place: str, name: str, faults: list[Fault]) -> None:
    area = annotation.get("area")
    if area is None:
        return
    _, _, w, h = annotation["bbox"]
    if not is_number(area) or area < 0 or (area == 0 and w * h > 1) or (area > w * h * _SLACK + 1 and w * h > 0):
        text = f"{place}: area {shown(area)}, its box has {w * h:.6g}"
        faults.append(Fault("area that cannot be", text, name, "that of the box"))
        annotation["area"] = w * h


def _check_ids(kept: Sequence[dict[str, Any]], split: str, faults: list[Fault]) -> None:
    counts = Counter(a["id"] for a in kept if is_whole(a.get("id")))
    twice = {i: count for i, count in counts.items() if count > 1}
    for annotation_id, count in twice.items():
        text = f"{split}: id {annotation_id}, {count} annotations"
        faults.append(Fault("annotation id twice", text, mend="numbered anew"))
    if twice or len(counts) < len(kept):
        for number, annotation in enumerate(kept, start=1):
            annotation["id"] = number


def _without_twins(
    kept: list[dict[str, Any]], split: str, records: Mapping[int, dict[str, Any]], faults: list[Fault]
) -> list[dict[str, Any]]:
    owned: dict[int, list[int]] = defaultdict(list)
    for index, annotation in enumerate(kept):
        if not annotation.get("iscrowd"):
            owned[annotation["image_id"]].append(index)
    gone = set()
    for image_id, own in owned.items():
        name = records[image_id]["file_name"]
        for first, second in _twins(np.array([kept[i]["bbox"] for i in own], np.float64)):
            one, two = kept[own[first]], kept[own[second]]
            boxes = f"bbox {[round(v, 2) for v in one['bbox']]} and {[round(v, 2) for v in two['bbox']]}"
            if own[first] in gone:
                continue
            if one["category_id"] == two["category_id"]:
                gone.add(own[second])
                faults.append(Fault("box twice", f"{split}: {name}: {boxes}", name, "there once"))
            else:
                text = f"{split}: {name}: {boxes}, categories {one['category_id']} and {two['category_id']}"
                faults.append(Fault("box of two categories", text, name))
    return [annotation for index, annotation in enumerate(kept) if index not in gone]


def _twins(boxes: Float[np.ndarray, "n 4"]) -> list[tuple[int, int]]:
    """Pairs (earlier, later) of xywh boxes of one image with an IoU from SAME."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    shared = np.clip(np.minimum(high[:, None], high) - np.maximum(low[:, None], low), 0, None).prod(2)
    area = boxes[:, 2:].prod(1)
    same = shared >= SAME * (area[:, None] + area - shared)
    return [(a, b) for a, b in np.argwhere(np.triu(same, 1)).tolist()]
