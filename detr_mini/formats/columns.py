"""What an annotation file says, as arrays: a column a key, a row a record. Images are not asked yet."""

from __future__ import annotations

import gc
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from detr_mini.errors import DataError
from detr_mini.formats.box_rules import MOST_PIXELS, area_of, rotation_of
from detr_mini.formats.faults import NOTICES, Fault, Kind
from detr_mini.formats.records import annotation_fault, in_one_line, tidy, where
from detr_mini.formats.values import as_flag, is_number, is_whole
from detr_mini.safe_files import read_bytes, reason, shown

_REMEDIES = {
    Kind.UNKNOWN_IMAGE: "add the image or remove the annotation",
    Kind.UNKNOWN_CATEGORY: "add the category or correct the id",
    Kind.BOX_WITHOUT_NUMBERS: "it must be four numbers [left, top, width, height], not text",
    Kind.BAD_CROWD_FLAG: "it must be 0 (an object) or 1 (a crowd region)",
}


@dataclass(frozen=True)
class Columns:
    """The records of one COCO file, or of a VOC or YOLO tree as a COCO file would have them."""

    path: Path
    """What an error names."""
    image_ids: Int[np.ndarray, " i"]
    file_names: Sequence[str]
    image_sizes: Int[np.ndarray, "i 2"]
    """(height, width) as said; 0 where nothing is said."""
    categories: Sequence[Mapping[str, Any]]
    boxes_xywh: Float[np.ndarray, "n 4"]
    owners: Int[np.ndarray, " n"]
    """The image id of each box."""
    category_ids: Int[np.ndarray, " n"]
    is_crowd: Bool[np.ndarray, " n"]
    area: Float[np.ndarray, " n"]
    """NaN where nothing usable is said."""
    rotation: Float[np.ndarray, " n"]
    """Degrees, clockwise, around the box's centre; 0 where nothing is said."""
    where: Callable[[int], str]
    """Names annotation i in an error."""
    notices: Sequence[str] = field(default=())

    @property
    def used(self) -> Counter[int]:
        """How many annotations each category id has."""
        ids, counts = np.unique(self.category_ids, return_counts=True)
        return Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))


def read_json(path: Path, faults: list[Fault] | None = None, *, corners: bool = False) -> dict[str, Any]:
    """The content of a COCO JSON file: its lists `images`, `annotations` and `categories`. DataError where broken.

    The records are made uniform (see `records.tidy`); what that changes is added to `faults`.
    """
    content = any_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no COCO annotations: a JSON object with 'images' and 'annotations' is expected")
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path} has no list '{key}' of records; give a COCO file for detection (instances)")
    changed = tidy(content, path, corners=corners)
    if faults is not None:
        faults += changed
    return content


def any_json(path: Path) -> Any:
    """What a JSON file holds; DataError where there is none, or it is broken."""
    try:
        with paused_garbage_collection():
            return _loads(read_bytes(path))
    except FileNotFoundError:
        raise DataError(f"there is no annotation file {path}; check data.root and the file's name") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); check the path and its permissions") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not whole JSON ({error.msg} at line {error.lineno}, column {error.colno}); "
                        "it may be cut off: copy or export it again") from None  # fmt: skip
    except UnicodeDecodeError:
        raise DataError(f"{path} is not JSON text; give a COCO annotation file") from None
    except RecursionError:
        raise DataError(f"{path} is nested too deeply for an annotation file; export it again") from None


def _loads(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:  # a whole number of more digits than Python reads: no id and no pixel, but where is it?
        return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 400 else math.inf)


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """A parser makes millions of objects and no garbage; looking for some again and again doubles its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def columns_of(content: Mapping[str, Any], path: Path, faults: Sequence[Fault] = ()) -> Columns:
    """The records of a COCO file's content as arrays; DataError, naming the record, where one cannot be used.

    An annotation's `where` (of VOC and YOLO trees) stands for its id in errors. `faults`: what `read_json` changed,
    for the notices.
    """
    images, annotations = content["images"], content["annotations"]
    listed = _listed_images(images, path)
    known = {category["id"] for category in content["categories"] if is_whole(category.get("id"))}
    for number, annotation in enumerate(annotations, start=1):
        _check_annotation(annotation, number, path, listed, known)
    ids = Counter(annotation["id"] for annotation in annotations if is_whole(annotation.get("id")))
    repeated = [i for i, count in ids.items() if count > 1]
    notices = in_one_line(faults, NOTICES)
    if repeated:
        notices.append(f"{len(repeated)} annotation ids stand more than once (the first is {repeated[0]}); "
                       "each box counts")  # fmt: skip
    return Columns(
        path=path,
        image_ids=np.array([image["id"] for image in images], np.int64),
        file_names=[image["file_name"] for image in images],
        image_sizes=np.array([_said_size(image) for image in images], np.int64).reshape(-1, 2),
        categories=content["categories"],
        boxes_xywh=np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4),
        owners=np.array([a["image_id"] for a in annotations], np.int64),
        category_ids=np.array([a["category_id"] for a in annotations], np.int64),
        is_crowd=np.array([as_flag(a.get("iscrowd")) == 1 for a in annotations], bool),
        area=np.array([area_of(a.get("area")) for a in annotations], np.float64),
        rotation=np.array([rotation_of(a) for a in annotations], np.float64),
        where=lambda i: where(annotations[i], i + 1, path),
        notices=notices,
    )


def _listed_images(images: Sequence[Mapping[str, Any]], path: Path) -> dict[int, str]:
    listed: dict[int, str] = {}
    for number, image in enumerate(images, start=1):
        image_id, name = image.get("id"), image.get("file_name")
        if not is_whole(image_id):
            raise DataError(
                f"image number {number} of {path} has the id {shown(image_id)}; image ids are whole numbers"
            )
        if not isinstance(name, str) or not name:
            raise DataError(f"image {image_id} of {path} has no file_name; add it")
        if image_id in listed:
            other = listed[image_id]
            raise DataError(f"two images of {path} have the id {image_id} ({other} and {name}); "
                            "give each image its own id")  # fmt: skip
        listed[image_id] = name
    if not listed:
        raise DataError(f"{path} lists no images; choose a file that lists them")
    return listed


def _check_annotation(
    annotation: Mapping[str, Any], number: int, path: Path, listed: Mapping[Any, str], known: set[Any]
) -> None:
    if found := annotation_fault(annotation, listed, known):
        kind, text = found
        raise DataError(f"{where(annotation, number, path)} {text}; {_REMEDIES[kind]}")


def _said_size(image: Mapping[str, Any]) -> tuple[int, int]:
    height, width = image.get("height"), image.get("width")
    if is_number(height) and is_number(width) and min(height, width) > 0 and max(height, width) <= MOST_PIXELS:
        return int(height), int(width)
    return 0, 0
