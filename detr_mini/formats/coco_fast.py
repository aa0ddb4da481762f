"""The fast way into a COCO file of any size: what detection needs, straight into arrays.

It gives what `columns_of(read_json(path), path)` gives, or hands over to it: that one has the words for what is wrong.
The parser is msgspec where it is installed (the extra `fast`), which skips what is not asked for; else the standard
library's, after the outlines, three quarters of a COCO file, are cut out.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from detr_mini.formats.box_rules import MOST_PIXELS, rotation_of
from detr_mini.formats.columns import Columns, columns_of, paused_garbage_collection, read_json
from detr_mini.formats.faults import Fault
from detr_mini.formats.values import is_whole
from detr_mini.safe_files import read_bytes

NUMBERS = rb"\[[^\[\]\"]*\]"
OUTLINES = re.compile(
    rb'"segmentation": ?(?:\[(?:' + NUMBERS + rb'(?:, ?)?)*\]|\{"counts": ?(?:' + NUMBERS + rb'|"[^"\\]*"), ?"size": ?'
    + NUMBERS + rb"\}), ?"
)  # fmt: skip
"""Polygons, or run lengths, in the writing of the usual tools; in any other it stays and costs time."""


def read_columns(path: Path, *, corners: bool = False) -> Columns:
    """The records of a COCO file as arrays; DataError, naming the record, where one cannot be used.

    `corners`: the boxes of the file are left, top, right, bottom. A box made of an outline is not.
    """
    with paused_garbage_collection():
        try:
            found = _with_msgspec(path)
        except ImportError:
            found = _with_json(path)
    if found is not None:
        x_y, ends = found.boxes_xywh[:, :2], found.boxes_xywh[:, 2:]
        return replace(found, boxes_xywh=np.concatenate([x_y, ends - x_y], 1)) if corners else found
    faults: list[Fault] = []
    content = read_json(path, faults, corners=corners)
    return columns_of(content, path, faults)


def _with_msgspec(path: Path) -> Columns | None:
    import msgspec

    four = tuple[float, float, float, float]
    annotation: Any = msgspec.defstruct(
        "Annotation",
        [("image_id", int), ("category_id", int), ("bbox", four), ("id", int), ("area", float, float("nan")),
         ("iscrowd", int, 0), ("ignore", int, 0), ("attributes", msgspec.Raw, msgspec.Raw(b""))],
        gc=False,
    )  # fmt: skip
    image: Any = msgspec.defstruct(
        "Image", [("id", int), ("file_name", str), ("height", int, 0), ("width", int, 0)], gc=False
    )
    whole = msgspec.defstruct(
        "Content",
        [("images", list[image]), ("annotations", list[annotation]), ("categories", list[dict[str, Any]])],
    )
    try:
        text = read_bytes(path)
        if not text.isascii():
            text.decode("utf-8")  # msgspec does not look into what it skips
        content: Any = msgspec.json.decode(text, type=whole)
        rows = content.annotations
        said = [(k, row.attributes) for k, row in enumerate(rows) if row.attributes]
        angles = [(k, rotation_of({"attributes": msgspec.json.decode(text)})) for k, text in said]
    except (OSError, UnicodeDecodeError, RecursionError, msgspec.MsgspecError):
        return None
    return _columns(path, content.images, rows, content.categories, attrgetter, angles)


def _with_json(path: Path) -> Columns | None:
    try:
        content = json.loads(OUTLINES.sub(b"", read_bytes(path)))
        rows = content["annotations"]
        images, categories = content["images"], content["categories"]
        if not all(isinstance(entries, list) for entries in (rows, images, categories)):
            return None
        if any("attributes" in row or "ignore" in row for row in rows) or set(
            map(len, map(itemgetter("bbox"), rows))
        ) - {4}:
            return None
        for key in ("id", "image_id", "category_id", "iscrowd"):
            if set(map(type, map(itemgetter(key), rows))) - {int}:
                return None
        numbers = set(map(type, chain.from_iterable(map(itemgetter("bbox"), rows))))
        numbers |= set(map(type, map(itemgetter("area"), rows)))
        texts = set(map(type, map(itemgetter("file_name"), images)))
        sizes = {type(image[key]) for key in ("id", "height", "width") for image in images}
        if numbers - {int, float} or texts - {str} or sizes - {int} or not all(isinstance(c, dict) for c in categories):
            return None
        return _columns(path, images, rows, categories, itemgetter, [])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and unicodedata.is_normalized("NFC", name)


def _columns(
    path: Path,
    images: Sequence[Any],
    rows: Sequence[Any],
    categories: Sequence[dict[str, Any]],
    get: Callable[[str], Callable[[Any], Any]],
    angles: Iterable[tuple[int, float]],
) -> Columns | None:
    """Columns of records of the right types; None where they make no sense."""
    n, i = len(rows), len(images)

    def column(key: str, kind: type, of: Sequence[Any] = rows) -> np.ndarray:
        return np.fromiter(map(get(key), of), kind, len(of))

    try:
        boxes = np.fromiter(chain.from_iterable(map(get("bbox"), rows)), np.float64, 4 * n).reshape(-1, 4)
        owners, category_ids, ids, crowd = (
            column(key, np.int64) for key in ("image_id", "category_id", "id", "iscrowd")
        )
        image_ids = column("id", np.int64, images)
        sizes = np.stack([column("height", np.int64, images), column("width", np.int64, images)], 1)
        area = column("area", np.float64)
        ignored = any(map(get("ignore"), rows)) if get is attrgetter else False
    except OverflowError:
        return None
    names = list(map(get("file_name"), images))
    listed = np.unique(image_ids)
    known = [c["id"] for c in categories if is_whole(c.get("id"))]
    fits = i > 0 and len(listed) == i and all(names) and not ignored and ((crowd == 0) | (crowd == 1)).all()
    fits = fits and all(type(c.get("id")) is int and _is_plain(c.get("name")) for c in categories)
    fits = fits and (np.abs(boxes) <= MOST_PIXELS).all() and (sizes <= MOST_PIXELS).all()
    if not fits or not np.isin(owners, listed).all() or not np.isin(category_ids, known).all() or (ids < 0).any():
        return None
    rotation = np.zeros(n)
    for row, angle in angles:
        rotation[row] = angle
    unique, counts = np.unique(ids, return_counts=True)
    repeated = set(unique[counts > 1].tolist())
    first = next((k for k in ids.tolist() if k in repeated), None) if repeated else None
    return Columns(
        path=path,
        image_ids=image_ids,
        file_names=names,
        image_sizes=np.where((sizes > 0).all(1, keepdims=True), sizes, 0),
        categories=categories,
        boxes_xywh=boxes,
        owners=owners,
        category_ids=category_ids,
        is_crowd=crowd != 0,
        area=np.where(np.isfinite(area) & (area > 0), area, np.nan),
        rotation=rotation,
        where=lambda k: f"annotation {ids[k]} of {path}",
        notices=[f"{len(repeated)} annotation ids stand more than once (the first is {first}); each box counts"]
        if repeated
        else [],
    )
