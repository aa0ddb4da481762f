"""What the page offers to download: detections as COCO's JSON, YOLO's or VOC's labels."""

from __future__ import annotations

import io
import json
import posixpath
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.values import is_number
from detr_mini.formats.voc import voc_xml
from detr_mini.formats.writing import free_name
from detr_mini.formats.yolo import fractions
from detr_mini.safe_files import safe_name

FORMATS = ("coco", "yolo", "voc")
MOST = 100_000
"""Boxes and pictures in one download, at most."""


def labels(kind: str, content: Any) -> tuple[bytes, str, str]:
    """(bytes, media type, file name) of a download: JSON for coco, else a zip of one file a picture.

    `content`: {"images": [{"name", "width", "height", "detections": [{"name", "score", "bbox"}]}]}, as the page holds
    it; `bbox` is (left, top, width, height) in pixels. Names keep their folders, without those that all images share:
    the files fit the folder that holds these pictures. DataError for anything else.
    """
    if kind not in FORMATS:
        raise ConfigError(f"there is no format '{kind}'; choose one of {', '.join(FORMATS)}")
    images = _below_one_folder(_checked(content))
    names = sorted({found["name"] for image in images for found in image["detections"]})
    ids = {name: k + 1 for k, name in enumerate(names)}
    if kind == "coco":
        return json.dumps(_coco(images, ids)).encode(), "application/json", "detections.json"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        taken: dict[str, int] = {}
        for image in images:
            stem = PurePosixPath(free_name(image["name"], taken)).with_suffix("")
            ending, text = ("txt", _yolo(image, ids)) if kind == "yolo" else ("xml", _voc(image, ids))
            archive.writestr(f"{'labels' if kind == 'yolo' else 'Annotations'}/{stem}.{ending}", _bytes(text))
        if kind == "yolo":  # YAML does not read JSON's escapes of characters beyond 16 bits
            lines = [f"  {k}: {json.dumps(name, ensure_ascii=False)}\n" for k, name in enumerate(names)]
            archive.writestr("data.yaml", _bytes("names:\n" + "".join(lines) if lines else "names: {}\n"))
    return packed.getvalue(), "application/zip", f"{kind}.zip"


def _below_one_folder(images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The images under names that are safe to write, without the folders that all of them share."""
    paths = [PurePosixPath(safe_name(image["name"])) for image in images]
    shared = posixpath.commonpath([str(path.parent) for path in paths]) if paths else ""
    return [{**image, "name": str(path.relative_to(shared))} for image, path in zip(images, paths, strict=True)]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a request may hold half of a character


def _coco(images: Sequence[Mapping[str, Any]], ids: Mapping[str, int]) -> dict[str, Any]:
    annotations = [
        {"image_id": number, "category_id": ids[found["name"]], "bbox": found["bbox"], "score": found["score"],
         "area": found["bbox"][2] * found["bbox"][3], "iscrowd": 0}
        for number, image in enumerate(images, 1) for found in image["detections"]
    ]  # fmt: skip
    return {
        "images": [{"id": number, "file_name": image["name"], "width": image["width"], "height": image["height"]}
                   for number, image in enumerate(images, 1)],
        "annotations": [{"id": number, **record} for number, record in enumerate(annotations, 1)],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }  # fmt: skip


def _yolo(image: Mapping[str, Any], ids: Mapping[str, int]) -> str:
    rows = (
        f"{ids[found['name']] - 1} {' '.join(fractions(found['bbox'], image['width'], image['height']))}\n"
        for found in image["detections"]
    )
    return "".join(rows)


def _voc(image: Mapping[str, Any], ids: Mapping[str, int]) -> str:
    record = {"file_name": image["name"], "width": image["width"], "height": image["height"]}
    boxes = [{"category_id": ids[found["name"]], "bbox": found["bbox"]} for found in image["detections"]]
    return voc_xml(record, boxes, {number: name for name, number in ids.items()})


def _checked(content: Any) -> list[dict[str, Any]]:
    """The images of a request. DataError where a part is not what the page sends."""
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or len(images) > MOST:
        raise DataError("the request holds no list of images")
    boxes = 0
    for place, image in enumerate(images):
        right = isinstance(image, dict) and isinstance(image.get("name"), str) and image["name"].strip()
        sides = [image.get(key) for key in ("width", "height")] if right else []
        if not right or not all(type(side) is int and 0 < side < 1_000_000 for side in sides):
            raise DataError("an image of the request has no name, width and height")
        found = image.get("detections")
        if not isinstance(found, list) or not all(map(_is_detection, found)):
            raise DataError("a detection of the request has no name, score and bbox")
        boxes += len(found)
        images[place] = {**image, "detections": [one | {"bbox": [*map(float, one["bbox"])]} for one in found]}
    if boxes > MOST:
        raise DataError(f"the request has {boxes:,} boxes, and at most {MOST:,} are taken")
    return images


def _is_detection(found: Any) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("name"), str) or not is_number(found.get("score")):
        return False
    box = found.get("bbox")
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and min(box[2:]) > 0
